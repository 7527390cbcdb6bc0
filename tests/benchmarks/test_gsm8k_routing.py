from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gsm8k_routing import MODELS, STRONG, WEAK, apgr, crossed, read


def accuracy(weak: list[float], strong: list[float]) -> np.ndarray:
    made = np.zeros((len(weak), len(MODELS)))
    made[:, WEAK], made[:, STRONG] = weak, strong
    return made


def test_sending_the_largest_gains_first_recovers_most_and_last_least() -> None:
    outcomes = accuracy([1.0] * 90 + [0.0] * 10, [1.0] * 100)
    gain = np.r_[np.zeros(90), np.ones(10)]
    assert apgr(gain, outcomes) == pytest.approx(0.95)
    assert apgr(-gain, outcomes) == pytest.approx(0.05)


def test_sending_in_any_order_recovers_half_on_average() -> None:
    rng = np.random.default_rng(0)
    outcomes = accuracy([*rng.integers(0, 2, 200)], [1.0] * 200)
    assert np.mean([apgr(rng.random(200), outcomes) for _ in range(200)]) == pytest.approx(0.5, abs=0.01)


def test_every_problem_is_predicted_from_the_other_half(tmp_path: Path) -> None:
    file = tmp_path / "solutions.jsonl"
    rows = [
        {"question": f"What is {number} + 1?"}
        | {
            name: {"is_correct": number % 3 == 0 or name == "175b_verification", "solution": "one two"}
            for name in MODELS
        }
        for number in range(40)
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    outcomes = read(file)
    assert outcomes.accuracy.mean(0) == pytest.approx([14 / 40] * 2 + [14 / 40, 1.0])
    assert outcomes.tokens[0, :, 0].tolist() == [12, 350, 1200, 35_000]
    correct, cost = crossed("constant", outcomes, seed=0)
    assert np.all(correct[:, STRONG] == 1)
    assert len(set(correct[:, WEAK])) == 2, "one mean of each half"
    assert cost[:, STRONG] == pytest.approx(35_000)
