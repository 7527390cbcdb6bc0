"""The card says what each reader would have done and what it costs, and which one was taken."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest

from training.profile import compared, readers
from training.profile.scores import reliability


def test_every_reader_has_a_line_and_the_chosen_one_is_bold() -> None:
    scores = {"log_loss": 0.61234, "auc": 0.7}
    text = compared.section({"name": "text", "compared": dict.fromkeys(readers.ORDER, scores)})
    lines = [line for line in text.splitlines() if line.startswith("| ") and "0.6123 | 0.700 |" in line]
    assert [line.split("|")[1].strip() for line in lines] == [
        f"**{name}**" if name == "text" else name for name in readers.ORDER
    ]
    assert all(line.split("|")[2].strip() for line in lines), "each says what it sees"


def test_a_profile_without_a_reader_has_no_section() -> None:
    assert compared.section(None) == ""


def test_the_cost_is_the_time_of_a_prediction() -> None:
    seen: list[str] = []

    class Slow:
        def predict(self, prompt: str) -> None:
            seen.append(prompt)
            time.sleep(0.002)

    text = compared.cost(Slow(), ["a", "b", "c"])  # type: ignore[arg-type]
    assert seen == ["a", "b", "c"]
    figure, count = re.findall(r"[\d,]+", text)
    assert int(figure.replace(",", "")) >= 2000
    assert count == "3"


def test_calibration_has_a_line_for_each_checkpoint() -> None:
    bins = [[0.1, 0.2, 20.0], [0.4, 0.35, 20.0], [0.9, 0.95, 19.0]]
    text = compared.calibration({"low": bins, "high": bins[:2]})
    assert "| `low` | 10 % → 20 % | 40 % → 35 % | 90 % → 95 % |" in text
    assert "| `high` | 10 % → 20 % | 40 % → 35 % | |" in text
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {5}
    assert compared.calibration(None) == ""


def test_bins_have_equally_many_prompts_in_the_order_of_their_predictions() -> None:
    predicted = np.array([0.9, 0.1, 0.5, 0.2, 0.8, 0.3])
    accuracy = np.array([1.0, 0.0, 0.5, 0.5, 0.5, 0.0])
    bins = reliability(accuracy, predicted, bins=3)
    assert np.array(bins) == pytest.approx(np.array([[0.15, 0.25, 2], [0.4, 0.25, 2], [0.85, 0.75, 2]]))
    assert len(reliability(accuracy[:2], predicted[:2])) == 2


def test_answer_tokens_have_a_line_for_each_checkpoint_that_has_scores() -> None:
    scores = {"answers_mean": 1234.5, "answers_error": 80.04, "answers_error_constant": 95.0}
    text = compared.answers({"max": scores, "off": {**scores, "answers_mean": 9.0}})
    assert "| `max` | 1,234.5 | 80.0 | 95.0 |" in text
    assert "| `off` | 9.0 | 80.0 | 95.0 |" in text
    assert compared.answers({"max": {"log_loss": 0.5}}) == "", "an older profile has none"
