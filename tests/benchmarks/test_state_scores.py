"""A state that tells more than the text lowers the log loss, noise does not, and what reading costs is summed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import frontiers, state_scores
from benchmarks.predictors import Outcomes
from training.profile.scores import auc, log_loss

PROMPTS, CHECKPOINTS = 400, 2


@pytest.fixture(scope="module")
def compared() -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    rng = np.random.default_rng(0)
    hard = rng.normal(size=PROMPTS)
    right = rng.random((PROMPTS, CHECKPOINTS, 2)) < 1 / (1 + np.exp(3 * hard[:, None, None]))
    outcomes = Outcomes(
        [f"What is {i % 7}?" for i in range(PROMPTS)],
        right.mean(2),
        np.tile(np.array([10.0, 30.0])[None, :, None], (PROMPTS, 1, 2)),
    )
    knowing = np.column_stack([hard, rng.normal(size=(PROMPTS, 3))])
    states = {"log probabilities": knowing, "noise": rng.normal(size=(PROMPTS, 30))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state_scores, "RESAMPLES", 100)
        patch.setattr(state_scores, "crossed_boosted", lambda outcomes, seed: np.full_like(outcomes.accuracy, 0.5))
        return state_scores.compared(outcomes, states, seed=0)


def test_a_state_that_tells_more_than_the_text_has_a_lower_log_loss(
    compared: dict[str, dict[str, dict[str, dict[str, float]]]],
) -> None:
    gained = compared["minus text"]["text + log probabilities"]
    assert gained["log loss"]["high"] < -0.1
    assert gained["AUC"]["low"] > 0.2
    assert compared["readers"]["log probabilities"]["AUC"]["mean"] > 0.85


def test_noise_gains_nothing(compared: dict[str, dict[str, dict[str, dict[str, float]]]]) -> None:
    gained = compared["minus text"]["text + noise"]
    assert gained["log loss"]["high"] > 0
    assert abs(compared["readers"]["noise"]["AUC"]["mean"] - 0.5) < 0.1


def test_the_first_token_is_the_last_of_the_log_probabilities(
    compared: dict[str, dict[str, dict[str, dict[str, float]]]],
) -> None:
    assert compared["readers"]["first token"]["AUC"]["mean"] < 0.6, "its features are the noise behind the knowing one"


def test_no_prompt_is_predicted_from_its_own_outcome() -> None:
    rng = np.random.default_rng(1)
    outcomes = rng.integers(0, 2, (200, 1)).astype(float)
    predicted = state_scores.crossed([rng.normal(size=(200, 150))], outcomes, seed=0)
    assert abs(np.corrcoef(predicted[:, 0], outcomes[:, 0])[0, 1]) < 0.25, "150 inputs fit 200 outcomes by heart"


def test_each_checkpoint_has_its_own_scale() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(600, 1))
    chances = 1 / (1 + np.exp(-np.column_stack([x[:, 0] + 2, x[:, 0] - 2])))
    predicted = state_scores.crossed([x], (rng.random((600, 2)) < chances).astype(float), seed=0)
    assert predicted.mean(0) == pytest.approx(chances.mean(0), abs=0.04)


def test_one_checkpoint_cannot_be_routed() -> None:
    accuracy: NDArray[np.float64] = np.array([[1.0], [0.0]])
    scores = state_scores.figures(np.array([[0.9], [0.2]]), accuracy, np.ones((2, 1)), np.ones((1, 2)))
    assert scores.keys() == {"log loss", "AUC"}


def test_figures_of_a_resampling_are_those_of_the_prompts_that_it_drew() -> None:
    rng = np.random.default_rng(3)
    predicted, tokens = rng.random((50, 3)).round(1), rng.integers(5, 90, (50, 3)).astype(float)
    accuracy = rng.integers(0, 3, (50, 3)) / 2
    rows = rng.integers(0, 50, 50)
    weights = np.stack([np.ones(50), np.bincount(rows, minlength=50).astype(float)])
    scores = state_scores.figures(predicted, accuracy, tokens, weights)
    cost = np.tile(tokens.mean(0), (50, 1))
    for number, drawn in enumerate((np.arange(50), rows)):
        right, p, spent = accuracy[drawn], predicted[drawn], tokens[drawn]
        assert scores["log loss"][number] == pytest.approx(log_loss(right, p))
        assert scores["AUC"][number] == pytest.approx(np.mean([auc(right[:, c], p[:, c]) for c in range(3)]))
        rule = frontiers.swept(p, cost[drawn], right, spent)
        closed = frontiers.share_closed(rule, frontiers.oracle(right, spent), frontiers.singles(right, spent))
        assert scores["closed"][number] == pytest.approx(closed)


def test_surprisal_is_a_sign_of_a_wrong_answer() -> None:
    right = np.array([[[1.0]], [[0.0]]] * 20)
    surprisal = np.array([[[1.0]], [[5.0]]] * 20)
    assert state_scores.of_surprisal(right, surprisal, seed=0) == {"mean": 1.0, "low": 1.0, "high": 1.0}


def test_reading_adds_its_own_time_and_saves_what_it_leaves_in_the_cache() -> None:
    row = {"alone": 0.1, "state": 0.3, "after": 0.05, "tokens": 100, "had": 0, "cached": 64}
    figures = state_scores.times({("prompt", i): row for i in range(10)}, seed=0)["prompt"]
    assert figures["ms added"] == pytest.approx({"mean": 250, "low": 250, "high": 250})
    assert figures["ms to first token"]["median"] == pytest.approx(100)
    assert figures["cached after reading"] == pytest.approx(0.64)


def test_a_state_of_another_engine_has_its_own_time_only() -> None:
    rows = {("last", i): {"state": 0.02 * (1 + i % 2)} for i in range(10)}
    assert state_scores.times(rows, seed=0)["last"] == {
        "prompts": 10,
        "ms of reading": pytest.approx({"median": 30, "p95": 40}),
    }
