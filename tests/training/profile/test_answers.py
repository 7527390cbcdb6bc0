"""Expected answer tokens follow the prompt and have the right mean; what few prompts cannot tell apart is pooled."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold

from models.forest import Forest, Forests
from training.profile import answers

Array = NDArray[np.float64]
PROMPTS, SPREAD = 400, 0.8


def measured(rng: np.random.Generator, spreads: tuple[float, ...]) -> tuple[Array, Array]:
    """Inputs and answer tokens of two samples: lognormal, longer for a larger first input and for later positions."""
    x = np.repeat(rng.uniform(0, 2, PROMPTS), len(spreads))
    position = np.tile(np.arange(len(spreads), dtype=float), PROMPTS)
    noise = rng.normal(0, 1, (len(x), 2)) * np.array(spreads)[position.astype(int), None]
    return np.column_stack([x, position]), np.round(np.exp(3 + x + position)[:, None] * np.exp(noise))


def fitted(inputs: Array, tokens: Array, checkpoints: int) -> answers.Answers | None:
    groups = np.repeat(np.arange(len(inputs) // checkpoints), checkpoints)
    folds = list(GroupKFold(5, shuffle=True, random_state=0).split(inputs, groups=groups))
    return answers.fit(inputs, tokens, checkpoints, folds, seed=0)


def test_expected_tokens_have_the_mean_of_held_out_answers_and_follow_the_prompt() -> None:
    """The exponential of the mean logarithm alone would be a quarter too low."""
    inputs, tokens = measured(np.random.default_rng(0), (SPREAD, SPREAD))
    found = fitted(inputs, tokens, 2)
    assert found is not None
    for position in (0, 1):
        assert found.expected[position::2].mean() == pytest.approx(tokens[position::2].mean(), rel=0.1)
    assert found.scales == pytest.approx([np.exp(SPREAD**2 / 2)] * 2, rel=0.12)
    forest = Forests([Forest.model_validate(found.forest)], 1, 2)
    brief, long = (found.scales * np.exp(forest(np.array([x]))[:, 0]) - 1 for x in (0.2, 1.8))
    assert np.all(long > 3 * brief)
    assert brief[1] == pytest.approx(np.e * brief[0], rel=0.35)


def test_expected_tokens_are_never_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum of trees may be below the lowest logarithm of any answer."""
    monkeypatch.setattr(answers, "boost", lambda *_: ({}, np.full(8, -1.0)))
    monkeypatch.setattr(answers, "smearing", lambda *_: np.array([1.0, 4.0]))
    found = answers.fit(np.zeros((8, 2)), np.ones((8, 1)), 2, [], seed=0)
    assert found is not None
    assert found.expected == pytest.approx([0.0, 4.0 / np.e - 1] * 4)


def test_nothing_is_fitted_if_every_token_counts_as_reasoning() -> None:
    inputs, tokens = measured(np.random.default_rng(0), (0.0, 0.0))
    assert fitted(inputs, 0 * tokens, 2) is None


def test_factors_that_differ_by_chance_are_nearly_one_factor() -> None:
    """The error is that of all residuals, not of a checkpoint's own."""
    rng = np.random.default_rng(0)
    own, drawn = [], []
    for _ in range(200):
        residual = rng.normal(0, SPREAD, (4 * 30, 1))
        own.append(np.exp(residual).reshape(-1, 4).mean(0))
        drawn.append(answers.smearing(residual, 4))
    error = [float(np.abs(np.array(factors) / np.exp(SPREAD**2 / 2) - 1).mean()) for factors in (own, drawn)]
    assert error[1] < 0.75 * error[0]


def test_a_factor_of_its_own_is_kept() -> None:
    """One checkpoint answers nothing to a fifth of the prompts, so its mean is far above that of the logarithms."""
    rng = np.random.default_rng(0)
    logs = np.stack([rng.normal(5, 0.3, 60), rng.normal(5, 0.3, 60) * (rng.random(60) > 0.2)], axis=1)
    residual = (logs - logs.mean(0)).reshape(-1, 1)
    assert answers.smearing(residual, 2) == pytest.approx(np.exp(logs - logs.mean(0)).mean(0), rel=0.03)


@pytest.mark.parametrize(("rows", "checkpoints"), [(1, 1), (2, 2), (40, 1)])
def test_one_prompt_or_one_checkpoint_has_the_mean_of_all(rows: int, checkpoints: int) -> None:
    residual = np.linspace(-1, 1, rows)[:, None]
    assert answers.smearing(residual, checkpoints) == pytest.approx([np.exp(residual).mean()] * checkpoints)


def test_checkpoints_that_always_answer_equally_long_keep_their_factors() -> None:
    assert answers.smearing(np.zeros((20, 1)), 2) == pytest.approx([1, 1])
    assert answers.smearing(np.tile([0.0, 1.0], 10)[:, None], 2) == pytest.approx([1, np.e])
