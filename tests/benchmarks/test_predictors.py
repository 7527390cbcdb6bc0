from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import models
from benchmarks import predictors
from benchmarks.predictors import Outcomes
from models.prediction import LEVELS
from training.profile.scores import log_loss

RNG = np.random.default_rng(0)
PROMPTS = [f"What is {' + '.join(['7'] * terms)}?" for terms in RNG.integers(2, 12, 300)]
TERMS = np.array([prompt.count("7") for prompt in PROMPTS])


def imagined() -> Outcomes:
    """More terms are harder for the second checkpoint and longer for both."""
    p_correct = np.stack([np.full(300, 0.95), 1 / (1 + np.exp(TERMS - 7.0))], 1)
    tokens = TERMS[:, None, None] * np.array([10.0, 4.0])[:, None] * RNG.gamma(20, 1 / 20, (300, 2, 4))
    return Outcomes(PROMPTS, RNG.binomial(4, p_correct) / 4, tokens)


OUTCOMES = imagined()


@pytest.mark.parametrize(
    "represent_as", [predictors.length, predictors.counts, predictors.ngrams(64), predictors.ngrams(4096)]
)
@pytest.mark.parametrize("learn", [predictors.linear, predictors.neighbours, predictors.boosted])
def test_every_way_beats_the_constant_if_prompts_differ(represent_as, learn) -> None:
    represent = represent_as(PROMPTS)
    x = represent(PROMPTS)
    predicted, constant = (way(x, OUTCOMES)(x) for way in (learn, predictors.constant))
    assert predicted.correct.shape == (300, 2)
    assert predicted.quantiles.shape == (300, 2, len(LEVELS))
    assert np.all((predicted.correct > 0) & (predicted.correct < 1))
    assert np.all(np.diff(predicted.quantiles, axis=2) >= -1e-9)
    truth = OUTCOMES.accuracy[:, 1]
    if not (learn is predictors.neighbours and represent_as is predictors.length):  # one number has one direction
        assert log_loss(truth, predicted.correct[:, 1]) < 0.8 * log_loss(truth, constant.correct[:, 1])


def test_the_activations_of_the_base_differ_by_where_they_are_read() -> None:
    base = Path(models.__file__).parent / "abacus" / "base"
    last, mean = (predictors.activations(base, last=last)(PROMPTS)(PROMPTS[:3]) for last in (True, False))
    assert last.shape == mean.shape
    assert not np.allclose(last, mean)
