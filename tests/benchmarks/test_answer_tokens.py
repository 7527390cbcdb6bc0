"""Lengths of solutions are predicted from other problems, and errors are compared with those from counts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import answer_tokens
from benchmarks.answer_tokens import Predicted
from benchmarks.gsm8k_routing import MODELS


def test_a_token_is_a_word_or_a_sign(tmp_path: Path) -> None:
    row = {"question": "How many?"} | {name: {"solution": "2 + 2 = <<2+2=4>>4.", "is_correct": True} for name in MODELS}
    file = tmp_path / "solutions.jsonl"
    file.write_text(json.dumps(row) + "\n")
    prompts, tokens = answer_tokens.read(file)
    assert prompts == ["How many?"]
    assert tokens.tolist() == [[15] * len(MODELS)]


def test_errors_are_of_expected_tokens_and_of_logarithms() -> None:
    tokens = np.array([[9.0, 99.0], [19.0, 99.0]])
    figures = answer_tokens.figures(Predicted(np.log1p(tokens) + 0.5, tokens + 2), tokens)
    assert figures["error"] == pytest.approx(2)
    assert figures["log error"] == pytest.approx(0.25)
    assert figures["off"] == pytest.approx((2 / 14 + 2 / 99) / 2)


@pytest.mark.parametrize("most", [None, 150])
def test_what_only_the_text_shows_is_predicted_from_it(most: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quotes make solutions long, and no count sees quotes; predictions come from other problems, few or many."""
    rng = np.random.default_rng(0)
    quoted = rng.random(400) < 0.5
    prompts = [f"How many {chr(34) if one else 'x'}things{chr(34) if one else 'x'} are there?" for one in quoted]
    tokens = np.where(quoted, 200.0, 20.0)[:, None] + rng.uniform(0, 5, (400, 2))
    monkeypatch.setattr(answer_tokens, "FOLDS", 2)
    monkeypatch.setattr(answer_tokens, "RESAMPLES", 50)
    table = answer_tokens.compared(prompts, tokens, seed=0, most=most)
    assert table["counts and text"]["minus counts"]["error"]["low"] > 0.5
    assert table["constant"]["error"]["mean"] == pytest.approx(90, rel=0.05)
    assert table["counts"]["minus counts"]["error"] == {"mean": 0, "low": 0, "high": 0}


def test_the_constant_is_the_mean_of_the_other_folds() -> None:
    tokens = np.exp2(np.arange(20.0))[:, None]
    predicted = answer_tokens.constant(tokens, seed=0).expected
    assert len(np.unique(predicted)) == answer_tokens.FOLDS
    assert predicted.mean() == pytest.approx(tokens.mean())
    few = answer_tokens.constant(tokens, seed=0, most=1).expected
    assert set(few.ravel()) <= set(tokens.ravel()), "of one problem"
    assert np.all(few != tokens)
