from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

from models.forest import Forest, Forests
from training.profile import _forest

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(300, 4))
LABELS = (INPUTS[:, 0] * INPUTS[:, 1] + RNG.normal(scale=0.3, size=300) > 0).astype(float)
STUMP: dict[str, Any] = {
    "intercept": 1.0, "roots": (0,), "feature": (1, 0, 0), "threshold": (0.5, 0.0, 0.0),
    "left": (1, 1, 2), "right": (2, 1, 2), "value": (0.0, 10.0, 20.0),
}  # fmt: skip


def test_a_stump_goes_left_up_to_its_threshold() -> None:
    said = Forests([Forest(**STUMP)], 2)(np.array([[9.0, 0.5], [9.0, 0.50001]]))
    assert said.tolist() == [[11.0], [21.0]]


def test_forests_of_different_depths_say_what_sklearn_says() -> None:
    classifier = GradientBoostingClassifier(n_estimators=20, max_depth=4, random_state=0)
    regressor = GradientBoostingRegressor(n_estimators=7, max_depth=2, random_state=0)
    classifier.fit(INPUTS, LABELS)
    regressor.fit(INPUTS, INPUTS[:, 2] ** 2)
    stored = [Forest.model_validate(_forest(model, LABELS)) for model in (classifier, regressor, None)]
    new = RNG.normal(size=(100, 4)).astype(np.float32).astype(float)  # sklearn compares single precision
    said = Forests(stored, 4)(new)
    assert said[:, 0] == pytest.approx(classifier.decision_function(new))
    assert said[:, 1] == pytest.approx(regressor.predict(new))
    share = LABELS.mean()
    assert said[:, 2] == pytest.approx(np.full(100, np.log(share / (1 - share)))), "no trees: the intercept alone"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"threshold": (0.5,)}, "threshold has 1 values, not 3"),
        ({"roots": (-1,)}, "roots must be nodes"),
        ({"right": (0, 1, 2)}, "node 0 must come before its children"),
        ({"left": (1, 2, 2)}, "node 1 must come before its children"),
        ({"right": (3, 1, 2)}, "node 0 must come before its children"),
        ({"value": (0.0, float("nan"), 1.0)}, "finite"),
    ],
)
def test_what_cannot_be_walked_is_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        Forest(**(STUMP | change))


def test_an_input_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="not one of the 1 inputs"):
        Forests([Forest(**STUMP)], 1)
