"""A measurement goes on where it was stopped, and never under other settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import model_state
from benchmarks.model_state import Lines, Plan
from benchmarks.state_engine import Subject

GSM8K = [{"question": f"q{i}", "answer": f"a{i}"} for i in range(20)]


def test_only_what_is_missing_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "times.jsonl"
    path.write_text('[["prompt", 0], {"state": 1}]\n[["prompt", 1], {"sta')
    lines = Lines(path)
    asked: list[tuple[str, int]] = []
    lines.fill([("prompt", i) for i in range(3)], lambda key: asked.append(key) or {"state": 2}, "times", at_once=1)
    assert asked == [("prompt", 1), ("prompt", 2)]
    assert Lines(path).by_key == {("prompt", 0): {"state": 1}, ("prompt", 1): {"state": 2}, ("prompt", 2): {"state": 2}}


def test_what_came_before_a_failure_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "read.jsonl"
    with pytest.raises(ZeroDivisionError):
        Lines(path).fill([2, 1, 0], lambda key: 2 / key, "log probabilities", at_once=1)
    assert Lines(path).by_key.keys() >= {2}


def test_other_settings_need_another_directory(tmp_path: Path) -> None:
    plan = Plan(Subject(tmp_path), [], {}, 1, 1, [], 0, tmp_path / "work", 1)
    model_state._same(plan, {"seed": 0})
    model_state._same(plan, {"seed": 0})
    with pytest.raises(SystemExit, match="--work"):
        model_state._same(plan, {"seed": 1})


def test_solved_questions_that_come_first_are_not_measured(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in GSM8K))
    shots = model_state._shots(tmp_path, {"q0", "q3"})
    assert [turn["content"] for turn in shots[:4]] == ["q1", "a1", "q2", "a2"]
    assert len(shots) == 2 * model_state.SHOTS
