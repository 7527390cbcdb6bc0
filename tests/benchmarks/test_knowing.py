"""A sign that tells wrong passes from right ones has an AUC near 1, noise one near a half, on other questions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import knowing
from benchmarks.knowing import Passes, figures
from training.job import checkpoints
from training.tasks.prompts import prompts

BASE = Path(__file__).parents[2] / "models" / "abacus" / "base"


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knowing, "RESAMPLES", 50)


def some_passes(count: int = 1200) -> Passes:
    """The surprisal tells wrong passes, the mean state tells hard ones a little, the last state is noise."""
    rng = np.random.default_rng(0)
    wrong = rng.random(count) < 0.2
    told, noise = wrong[:, None] + rng.normal(size=(count, 8)), rng.normal(size=(count, 8))
    return Passes(wrong, np.arange(count) % 2 == 0, wrong + 0.1 * rng.random(count), noise, told)


def test_each_sign_has_the_auc_that_it_earns() -> None:
    measured = figures(some_passes(), seed=0)["all"]
    assert measured["surprisal"]["mean"] == 1
    assert measured["mean"]["low"] > 0.9
    assert measured["last"]["low"] < 0.5 < measured["last"]["high"]


def test_the_last_quarter_is_measured_and_hard_questions_by_themselves() -> None:
    measured = figures(some_passes(), seed=0)
    assert (measured["all"]["questions"], measured["hard"]["questions"]) == (300, 150)


def test_memorised_noise_does_not_count() -> None:
    passes = some_passes()
    rng = np.random.default_rng(1)
    wide = rng.normal(size=(1200, 900))  # as wide as there are fitted questions: a regression fits any labels
    measured = figures(Passes(passes.wrong, passes.hard, passes.surprisal, wide, passes.mean), seed=0)["all"]
    assert abs(measured["last"]["mean"] - 0.5) < 0.15


def test_the_base_is_surprised_by_its_own_wrong_passes() -> None:
    model, tokenizer = checkpoints.load_model(BASE, "float32"), checkpoints.load_tokenizer(BASE)
    read = knowing.passes(model, tokenizer, prompts("train", 0, 120, hard_share=1.0), seed=0)
    assert read.hard.all()
    assert read.last.shape == read.mean.shape == (120, 4 * 256)
    assert read.surprisal[read.wrong].mean() > 2 * read.surprisal[~read.wrong].mean()
