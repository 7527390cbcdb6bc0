"""The server's command line and environment, and how a server that does not start is reported."""

import os
import sys

import psutil
import pytest

from training.errors import StageError
from training.job import vllm_server
from training.job.vllm_server import ServerSettings

SETTINGS = ServerSettings(model="m", context_tokens=128, dtype="float32", sequences=4)


def test_the_policy_that_samples_is_the_model_itself(tmp_path):
    """No top-p of the model's own, log-probabilities at the temperature of the draw."""
    command = vllm_server.command(SETTINGS, tmp_path / "socket")
    for option, value in (("--generation-config", "vllm"), ("--logprobs-mode", "processed_logprobs")):
        assert command[command.index(option) + 1] == value


def test_an_operator_s_environment_wins_except_where_weights_must_load(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "3")
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "0")
    environment = vllm_server.environment(SETTINGS)
    assert environment["OMP_NUM_THREADS"] == "7"
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "3"
    assert environment["VLLM_SERVER_DEV_MODE"] == "1"


def test_a_key_for_other_engines_does_not_keep_the_job_out(monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "sk-others")
    assert vllm_server.environment(SETTINGS)["VLLM_API_KEY"] == ""


def test_threads_are_at_most_the_usable_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert vllm_server.threads() == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 6)
    assert vllm_server.threads() == 6


@pytest.mark.parametrize(("bytes_per_token", "gib"), [(0, "1"), (2**20, "2"), (2**40, "4")])
def test_the_cache_holds_all_completions_but_at_most_a_quarter_of_the_memory(monkeypatch, bytes_per_token, gib):
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 16 * 2**30}))
    settings = ServerSettings(
        model="m", context_tokens=512, dtype="float32", sequences=4, kv_bytes_per_token=bytes_per_token
    )
    assert vllm_server.environment(settings)["VLLM_CPU_KVCACHE_SPACE"] == gib


def test_a_server_that_does_not_start_is_reported_with_the_end_of_its_log(tmp_path, monkeypatch):
    broken = [sys.executable, "-c", "print('no such weights'); raise SystemExit(3)"]
    monkeypatch.setattr(vllm_server, "command", lambda *_: broken)
    with (
        pytest.raises(StageError, match=r"family\.engine: vLLM did not start \(exit code 3\)[\s\S]*no such weights"),
        vllm_server.running(SETTINGS, tmp_path / "vllm.log"),
    ):
        pass


def test_without_vllm_the_error_says_what_works_without_it(monkeypatch):
    monkeypatch.setattr(vllm_server.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(StageError, match=r"family\.engine: vLLM is not installed.*engine: transformers"):
        vllm_server.require_installed()
