"""Outcomes tell thinking from answering, and files of earlier versions are read."""

from __future__ import annotations

import json
from pathlib import Path

from training.tasks import outcome
from training.tasks.outcome import Graded, Outcome


def test_answer_tokens_are_those_that_are_no_reasoning() -> None:
    assert Outcome(True, 30, 42, 1, True).answer_tokens == 12
    assert Outcome(False, 64, 64, 1, False).answer_tokens == 0, "cut off while it thought"
    assert Outcome(True, 30, 0, 1, True).answer_tokens == 0, "not counted"


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    rows = [Graded("1 + 1", "sum", "easy", (Outcome(True, 3, 9, 1, True, 0.5, 1.5), Outcome(False, 4, 4, 1, False)))]
    outcome.save(rows, tmp_path / "base.jsonl")
    assert outcome.load(tmp_path / "base.jsonl") == rows


def test_a_file_without_probabilities_has_answer_tokens(tmp_path: Path) -> None:
    """What was measured before there were answer tokens has both counts."""
    sample = {"correct": True, "reasoning_tokens": 3, "tokens": 9, "episodes": 1, "finished": True}
    row = {"prompt": "1 + 1", "task": "sum", "difficulty": "easy", "outcomes": [sample]}
    (tmp_path / "base.jsonl").write_text(json.dumps(row) + "\n")
    (loaded,) = outcome.load(tmp_path / "base.jsonl")
    assert loaded.outcomes[0].answer_tokens == 6
