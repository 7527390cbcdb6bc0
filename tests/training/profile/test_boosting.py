import numpy as np
import pytest

from models.forest import Forest, Forests
from training.profile.boosting import RISING, to_forest


def test_a_stored_forest_of_histograms_agrees_with_the_fitted_model():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(800, 3))
    right = (inputs[:, 0] + inputs[:, 2] > rng.normal(size=800)).astype(float)
    model = RISING.fit(inputs, right, 20, 0)
    stored = Forests([Forest.model_validate(to_forest(model, right))], 3, 1)
    for row, expected in zip(inputs, model.decision_function(inputs), strict=True):
        assert stored(row)[0, 0] == pytest.approx(expected)
