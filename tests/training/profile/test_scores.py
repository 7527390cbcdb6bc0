"""An expected number of answer tokens is scored by its mean square, beside the mean for every prompt."""

from __future__ import annotations

import numpy as np
import pytest

from training.profile.scores import answer_scores


def test_errors_of_answer_tokens_are_root_mean_squares_over_samples() -> None:
    tokens = np.array([[10.0, 20.0], [30.0, 60.0]])
    scores = answer_scores(tokens, np.array([15.0, 45.0]))
    assert scores["answers_mean"] == 30
    assert scores["answers_error"] == pytest.approx(np.sqrt((25 + 25 + 225 + 225) / 4))
    assert scores["answers_error_constant"] == pytest.approx(np.sqrt((400 + 100 + 0 + 900) / 4))
