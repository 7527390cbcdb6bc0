"""A run that is killed in every stage and restarted makes the same artefacts as an uninterrupted run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from models import family
from training.errors import StageError
from training.job.resume import KeepNumbers, exclusive_lock, kept_numbers, last_checkpoint

RECIPE = """\
name: tiny
description: A family too small to be of use.
run_dir: run
publish_to: published
base: {hidden: 32, layers: 1, heads: 2, kv_heads: 1, head_dim: 16, mlp: 64, vocabulary: 400, steps: 16,
       batch_tokens: 512, save_every: 4, gate_prompts: 2, gate_stops: false}
family: {alphas: [0.0, 0.2], steps: 3, prompts_per_step: 2, rollouts: 2, lora_rank: 2, max_tokens: 8, save_every: 1}
evaluate: {prompts: 6, samples: 2}
profile: {prompts: 12, samples: 2}
"""

KILL_WHEN = {
    "base": "run/base/work/checkpoint-8/complete",
    "family": "run/family/alpha-0.2/work/checkpoint-2/complete",
    "evaluate": "run/evaluate/alpha-0.jsonl",
    "profile": "run/profile/base.jsonl",
    "publish": "published.unfinished",
}
"""A file that appears while the stage is running."""


def start(directory: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-m", "training.cli", "run", "recipe.yaml"]
    with (directory / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=directory, env=environment, stdout=log, stderr=log)


def finish(process: subprocess.Popen[bytes], directory: Path) -> None:
    assert process.wait(timeout=900) == 0, (directory / "log").read_text()[-3000:]


def new_run(directory: Path) -> Path:
    directory.mkdir()
    (directory / "recipe.yaml").write_text(RECIPE)
    return directory


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    directory = new_run(tmp_path_factory.mktemp("runs") / "uninterrupted")
    finish(start(directory), directory)
    return directory


def test_a_run_killed_in_every_stage_makes_the_same_artefacts(uninterrupted, tmp_path):
    directory = new_run(tmp_path / "killed")
    for stage, trigger in KILL_WHEN.items():
        process = start(directory)
        while not (directory / trigger).exists():
            assert process.poll() is None, f"the run ended before {stage}: {(directory / 'log').read_text()[-3000:]}"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    finish(start(directory), directory)
    assert family.load(directory / "published").all_files() == family.load(uninterrupted / "published").all_files()
    assert (directory / "published" / "README.md").read_text() == (
        uninterrupted / "published" / "README.md"
    ).read_text()


def test_running_a_finished_run_again_changes_nothing(uninterrupted):
    def modification_times() -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in (uninterrupted / "run").rglob("*") if p.is_file()}

    before = modification_times()
    finish(start(uninterrupted), uninterrupted)
    assert modification_times() == before


def test_a_half_written_checkpoint_is_removed_and_the_previous_one_used(tmp_path):
    for step in (5, 10, 15):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "optimizer.pt").write_text("moments")
        if step < 15:
            (tmp_path / f"checkpoint-{step}" / "complete").write_text('{"optimizer.pt": 7}')
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    assert not (tmp_path / "checkpoint-15").exists()


def test_a_checkpoint_with_a_truncated_file_is_not_resumed(tmp_path):
    for step in (5, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "optimizer.pt").write_text("moments"[: 7 if step == 5 else 3])
        (tmp_path / f"checkpoint-{step}" / "complete").write_text('{"optimizer.pt": 7}')
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-5")


@pytest.mark.parametrize("is_main", [True, False])
def test_numbers_are_kept_exactly_and_only_the_main_process_writes_them(tmp_path, is_main):
    (tmp_path / "checkpoint-5").mkdir()
    numbers = {"total": 0.1 + 0.2, "weight": 1 / 3}
    state = TrainerState(global_step=5, is_world_process_zero=is_main)
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    KeepNumbers(lambda: numbers).on_save(arguments, state, TrainerControl())
    if is_main:
        assert kept_numbers(str(tmp_path / "checkpoint-5")) == numbers
    else:
        with pytest.raises(StageError, match=r"checkpoint-5/\S+: cannot be read .*; remove .*checkpoint-5 to resume"):
            kept_numbers(str(tmp_path / "checkpoint-5"))


def test_a_stage_that_has_not_started_has_no_checkpoint(tmp_path):
    assert last_checkpoint(tmp_path / "nothing") is None


def test_a_command_waits_for_another_whose_work_it_uses(tmp_path, capfd):
    shared, made = tmp_path / "tried", tmp_path / "tried" / "made"

    def other() -> str:
        with exclusive_lock(shared, wait=True):
            return made.read_text()

    with ThreadPoolExecutor(1) as pool:
        with exclusive_lock(shared, wait=True):
            waiting, until = pool.submit(other), time.monotonic() + 60
            while "waiting for it" not in capfd.readouterr().err and time.monotonic() < until:
                time.sleep(0.01)
            assert not waiting.done()
            made.write_text("all of it")
        assert waiting.result(timeout=60) == "all of it"


def test_a_command_does_not_wait_where_it_would_only_repeat_the_work(tmp_path):
    with (
        exclusive_lock(tmp_path),
        pytest.raises(StageError, match="another laconic-train is running there"),
        exclusive_lock(tmp_path),
    ):
        pass
