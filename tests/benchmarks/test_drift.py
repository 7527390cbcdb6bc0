from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.drift import figures, gsm8k, summary
from benchmarks.gsm8k_routing import MODELS
from models import profile as profiles
from training.tasks.prompts import prompts

ABACUS = Path(profiles.__file__).parent / "abacus" / "profile.json"


def test_the_distance_at_the_fifths_is_no_larger_than_that_anywhere() -> None:
    read = figures(profiles.load(ABACUS), [one.prompt for one in prompts("heldout", 0, 200)])
    assert 0 < read["distance"] <= read["anywhere"] < 1
    assert read["unfamiliar"] == 0
    strange = figures(profiles.load(ABACUS), ["What is 1 + 2?"] * 9 + ["Who wrote the Aeneid, and why in hexameters?"])
    assert strange["unfamiliar"] == pytest.approx(0.1)


def test_a_profile_reads_only_what_it_was_not_fitted_on() -> None:
    rows = [
        {"question": f"What is {'1 + ' * (number % 7)}{number}?"}
        | {name: {"is_correct": number % 7 < 4, "solution": "one two"} for name in MODELS}
        for number in range(60)
    ]
    read = gsm8k(rows, 40, seed=0)
    assert read["reader"]
    assert read["distance"] >= 0


def test_a_summary_has_means_and_the_largest_and_counts_signs() -> None:
    draws = [
        {"distance": 0.1, "anywhere": 0.2, "unfamiliar": 0.0, "signs": ()},
        {"distance": 0.3, "anywhere": 0.4, "unfamiliar": 0.1, "signs": ("unfamiliar", "harder")},
    ]
    table = summary(draws)
    assert table["distance"] == {"mean": 0.2, "largest": 0.3}
    assert table["signs"] == {"unfamiliar": 1, "harder": 1}
    assert table["draws"] == 2
    assert "readers" not in table
