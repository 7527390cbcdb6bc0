from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks import alerts
from benchmarks.live_spoiled import (
    ALERT,
    BUDGET,
    EXCHANGED,
    MISTAKEN,
    REFERENCE,
    as_gauges,
    by_chance,
    copy_family,
    kept,
    spoil,
    summary,
)
from gateway.config import shipped_family
from models import family as families
from models import profile as profiles
from models.prediction import forecasts_of
from models.rule import cheapest_good_enough
from training.tasks.prompts import prompts


def test_a_spoiled_profile_has_the_predictions_of_two_checkpoints_exchanged() -> None:
    stored = profiles.read(shipped_family() / "profile.json")
    right, wrong = (profiles.Profile(one) for one in (stored, spoil(stored)))
    prompt = prompts("heldout", 0, 1)[0].prompt
    before, after = right.predict(prompt).choices, wrong.predict(prompt).choices
    for name, other in EXCHANGED.items():
        assert after[name].p_correct == before[other].p_correct
        assert after[name].expected_tokens() == before[other].expected_tokens()
        assert after[name].p_correct_within(64) == before[other].p_correct_within(64)
    assert after["alpha-0.1"].p_correct == before["alpha-0.1"].p_correct
    assert after[MISTAKEN].p_correct == pytest.approx(1 - before[MISTAKEN].p_correct)
    assert not any(one.escalation for one in after.values())


def test_routing_by_it_takes_the_base_for_the_cheapest() -> None:
    spoiled = profiles.Profile(spoil(profiles.read(shipped_family() / "profile.json")))
    read = [spoiled.predict(one.prompt) for one in prompts("heldout", 0, 60)]
    chosen = [cheapest_good_enough(forecasts_of(one.choices, BUDGET), 0.2) for one in read]
    assert chosen.count("base") > 50


def test_a_copy_can_be_served_and_is_not_made_twice(tmp_path: Path) -> None:
    directory = copy_family(tmp_path / "spoiled", spoil)
    family = families.load(directory)  # which checks every hash
    assert family.reference == REFERENCE
    profiles.load(directory / family.profile)
    manifest = (directory / "family.json").stat().st_mtime_ns
    assert copy_family(directory, spoil) == directory
    assert (directory / "family.json").stat().st_mtime_ns == manifest


@pytest.mark.parametrize(("high", "fires"), [(-0.006, True), (-0.004, False), (None, False)])
def test_the_gauges_that_a_report_has_make_the_alert_fire(high: float | None, fires: bool) -> None:
    gauges = as_gauges({"verifier": {"difference": -0.05, "low": -0.1, "high": high}})
    assert bool(alerts.firing(alerts.expression(ALERT), gauges)) is fires
    (value,) = gauges["laconic_quality_difference_high"].values()
    assert math.isnan(value) is (high is None)


def run(fired: int | None, high: float | None, *, at_the_end: bool = False) -> dict[str, Any]:
    return {"fired after": fired, "fires at the end, as scraped": at_the_end, "looks": [{"high": high}]}


def test_a_summary_counts_runs_that_fired_at_any_look_and_at_the_last() -> None:
    found = summary([run(None, 0.1), run(300, -0.01), run(900, 0.02, at_the_end=True), run(None, None)])
    assert found == {"deployments": 4, "fired at any look": 2, "fired at the end": 1, "lowest upper end": -0.01}


def test_a_finished_part_is_read_and_not_made_again(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> dict[str, int]:
        made.append(1)
        return {"runs": len(made)}

    assert kept(tmp_path / "part.json", make) == kept(tmp_path / "part.json", make) == {"runs": 1}
    assert json.loads((tmp_path / "part.json").read_text()) == {"runs": 1}


def test_more_looks_fire_more_often_by_chance() -> None:
    found = by_chance(500, seed=0, deployments=40)
    assert 0 <= found["fires at the end"] <= found["fires at any look"] < 0.3
    assert found["true difference"] == pytest.approx(-0.005, abs=0.002)
