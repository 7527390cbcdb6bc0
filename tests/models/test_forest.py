from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from models.forest import Forest, Forests
from training.profile.boosting import to_forest

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(300, 4))
LABELS = (INPUTS[:, 0] * INPUTS[:, 1] + RNG.normal(scale=0.3, size=300) > 0).astype(float)
STUMP: dict[str, Any] = {
    "intercept": 1.0, "roots": (0,), "feature": (1, 0, 0), "threshold": (0.5, 0.0, 0.0),
    "left": (1, 1, 2), "right": (2, 1, 2), "value": (0.0, 10.0, 20.0),
}  # fmt: skip


def test_a_stump_goes_left_up_to_its_threshold() -> None:
    stump = Forests([Forest(**STUMP)], 2, 1)
    assert stump(np.array([9.0, 0.5])).tolist() == [[11.0]]
    assert stump(np.array([9.0, 0.50001])).tolist() == [[21.0]]


def test_forests_of_different_depths_agree_with_sklearn_at_every_position() -> None:
    """The last input is the position; trees test it first, in the middle and last, and several times on one path."""
    inputs = np.column_stack([INPUTS, RNG.integers(0, 5, size=300)])
    labels = LABELS * (inputs[:, 4] != 2)
    classifier = HistGradientBoostingClassifier(max_iter=20, max_depth=4, random_state=0)
    regressor = HistGradientBoostingRegressor(max_iter=7, max_depth=2, random_state=0)
    classifier.fit(inputs, labels)
    regressor.fit(inputs, inputs[:, 2] ** 2 + inputs[:, 4])
    stored = [Forest.model_validate(to_forest(model, labels)) for model in (classifier, regressor, None)]
    assert {4} < set(stored[0].feature), "the trees must test the position"
    forests = Forests(stored, 4, 5)
    for counts in RNG.normal(size=(100, 4)).astype(np.float32).astype(float):  # sklearn compares in single precision
        predicted = forests(counts)
        new = np.column_stack([np.tile(counts, (5, 1)), np.arange(5)])
        assert predicted[:, 0] == pytest.approx(classifier.decision_function(new))
        assert predicted[:, 1] == pytest.approx(regressor.predict(new))
    share = labels.mean()
    assert predicted[:, 2] == pytest.approx(np.full(5, np.log(share / (1 - share)))), (
        "without trees, the intercept alone"
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"threshold": (0.5,)}, "threshold has 1 values, not 3"),
        ({"roots": (-1,)}, "roots must be indices of nodes"),
        ({"right": (0, 1, 2)}, "node 0 must come before its children"),
        ({"left": (1, 2, 2)}, "node 1 must come before its children"),
        ({"right": (3, 1, 2)}, "node 0 must come before its children"),
        ({"value": (0.0, float("nan"), 1.0)}, "finite"),
        ({"left": (2, 1, 2)}, "in one way only"),
        ({"roots": (0, 0)}, "in one way only"),
        ({"roots": (0, 1)}, "in one way only"),
    ],
)
def test_a_malformed_forest_is_rejected(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        Forest(**(STUMP | change))


def test_a_feature_beyond_the_inputs_is_rejected() -> None:
    with pytest.raises(ValueError, match="not one of the 1 inputs"):
        Forests([Forest(**STUMP)], 0, 1)


def test_a_chain_of_shared_children_is_rejected_because_it_would_be_compiled_into_a_tree_without_end() -> None:
    depth = 60
    chain = [min(node + 1, depth) for node in range(depth + 1)]
    sizes: dict[str, Any] = {
        "feature": [0] * (depth + 1),
        "threshold": [0.0] * (depth + 1),
        "value": [0.0] * (depth + 1),
    }
    with pytest.raises(ValidationError, match="in one way only"):
        Forest(intercept=0.0, roots=(0,), left=tuple(chain), right=tuple(chain), **sizes)
