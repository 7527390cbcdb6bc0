import numpy as np
import pytest

from training.profile.logistic import fit_scale


def test_a_checkpoint_s_scale_is_recovered_from_its_accuracy():
    rng = np.random.default_rng(0)
    easiness = rng.normal(2, 1.5, 4000)
    for a, b in ((1.0, 0.0), (1.3, -0.4), (0.7, 0.5)):
        share = rng.binomial(4, 1 / (1 + np.exp(-(a * easiness + b)))) / 4
        assert fit_scale(easiness, share) == pytest.approx((a, b), abs=0.1)


def test_a_checkpoint_that_is_always_correct_has_a_finite_scale_above_the_others():
    easiness = np.random.default_rng(0).normal(2, 1, 500)
    a, b = fit_scale(easiness, np.ones(500))
    assert np.isfinite(a)
    assert b > 0.5
