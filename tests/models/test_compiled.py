from __future__ import annotations

import gc
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import shipped_family
from gateway.routing import rule
from gateway.routing.rule import RoutingRequest
from models import compiled
from models import family as families
from models import profile as profiles
from models.compiled import Compiled
from models.features import FEATURES, logs
from models.plain import Plain
from models.prediction import LEVELS, Forecast, Prediction, forecasts_of
from models.profile import LIBRARY, Profile
from models.stored import SCHEMA_VERSION
from training.tasks.prompts import prompts

BUDGETS = (None, 0, 1, 2, 5, 8, 13, 21, 34, 64, 100, 255, 1000, 32_000)
POSITION = len(FEATURES)
needs_library = pytest.mark.skipif(
    LIBRARY is None and shutil.which("cc") is None, reason="there is no C compiler here, so nothing was compiled"
)


def random_forest(seed: int, trees: int) -> dict[str, Any]:
    """Trees of up to four levels that test features and the position, at thresholds that prompts have around them."""
    rng = random.Random(seed)
    forest: dict[str, Any] = {"intercept": rng.gauss(0.5, 0.5), "roots": []}
    forest |= {name: [] for name in ("feature", "threshold", "left", "right", "value")}

    def grow(level: int) -> int:
        node = len(forest["value"])
        for name, value in (("feature", 0), ("threshold", 0.0), ("left", node), ("right", node)):
            forest[name].append(value)
        forest["value"].append(rng.gauss(0, 0.3))
        if level < 4 and rng.random() < 0.8:
            by_position = rng.random() < 0.3
            forest["feature"][node] = POSITION if by_position else rng.randrange(POSITION)
            forest["threshold"][node] = rng.uniform(-1, 7) if by_position else rng.uniform(0, 4)
            forest["left"][node], forest["right"][node] = grow(level + 1), grow(level + 1)
        return node

    forest["roots"] = [grow(0) for _ in range(trees)]
    return forest


def random_profile(seed: int, checkpoints: int, escalations: int) -> dict[str, Any]:
    rng = random.Random(seed)
    names = [f"level-{number}" for number in range(checkpoints)]
    reader = {"name": "length", "intercept": 0.3, "forest": 0.7, "parts": [{"kind": "length", "weights": [-0.2]}]}
    return {
        "schema_version": SCHEMA_VERSION,
        "vocabulary": ["what", "is", "the", "sum"],
        "lower": [0.0] * POSITION,
        "upper": [6.0] * POSITION,
        "difficulties": [rng.random() for _ in range(11)],
        "correct": random_forest(seed, 5),
        "reader": rng.choice([None, {**reader, "compared": {}}]),
        "scales": {name: [rng.uniform(0.5, 2), rng.gauss(0, 1)] for name in names},
        "tokens": random_forest(seed + 1, 8),
        "spread": random_forest(seed + 2, 6),
        "answers": rng.choice([None, random_forest(seed + 4, 4)]),
        "answer_scales": {name: rng.uniform(0.9, 1.5) for name in names},
        "escalations": {
            f"{number}": {
                "first": rng.choice(names),
                "second": rng.choice(names),
                "surprisal": 1.0,
                "scale": [1.0, rng.gauss(0, 1)],
                "unsure": [rng.gauss(0, 1) for _ in range(3)],
                "measured": {},
            }
            for number in range(escalations)
        },
        "budget_forced": random_forest(seed + 3, 6),
        "budget_forced_shifts": {name: [rng.gauss(0, 1) for _ in range(9)] for name in names},
        "residuals": {name: [rng.gauss(0, 1) for _ in LEVELS] for name in names},
        "report": {},
    }


def in_both(raw: dict[str, Any]) -> tuple[Compiled, Plain]:
    """The profile in C and in numpy."""
    profile = Profile.of(raw)
    assert LIBRARY is not None, "there is a C compiler: install this package again"
    return Compiled(LIBRARY, profile.stored), Plain(profile.stored, profile.escalations)


def assert_alike(fast: Compiled, plain: Plain, counts: list[int], easiness: float, budgets: list[int | None]) -> None:
    """Predictions are equal to 1e-9, and forecasts are these, rounded."""
    failure, _, state = fast.read(counts, easiness)
    choices = plain.choices(logs(counts), easiness)
    assert failure == pytest.approx(Prediction(0.0, True, choices).failure, abs=1e-12)
    for budget in budgets:
        exact, rounded = fast.forecasts(state, budget, exact=True), fast.forecasts(state, budget)
        assert list(exact) == list(choices)
        for name, one in choices.items():
            within, limited = one.p_correct_within(budget), one.expected_tokens(budget)
            expected = within, limited, one.expected_tokens(), one.answer_tokens
            assert exact[name] == pytest.approx(expected, rel=1e-9, abs=1e-9)
            assert rounded[name] == (round(exact[name][0], 4), *(round(value, 2) for value in exact[name][1:]))


def assert_rounded_alike(forecasts: Mapping[str, Forecast], others: Mapping[str, Forecast]) -> None:
    """Equal, but where the last bit of a number decides which way it is rounded."""
    assert list(forecasts) == list(others)
    for name, forecast in forecasts.items():
        assert forecast.success == pytest.approx(others[name].success, abs=1.01e-4)
        assert forecast[1:] == pytest.approx(others[name][1:], abs=1.01e-2)


@needs_library
def test_on_ten_thousand_prompts_the_compiled_profile_predicts_and_decides_as_numpy_does() -> None:
    """Of the shipped family, each under one budget."""
    family = families.load(shipped_family(), verify=False)
    fast = profiles.load(shipped_family() / family.profile)
    plain = Profile(fast.stored, library=None)
    everyone = frozenset(checkpoint.name for checkpoint in family.checkpoints)
    for number, question in enumerate(prompts("heldout", 0, 10_000)):
        one, other = fast.predict(question.prompt), plain.predict(question.prompt)
        assert (one.familiar, one.difficulty) == (other.familiar, other.difficulty)
        asked = {
            "limit": BUDGETS[number % len(BUDGETS)],
            "tolerance": 0.005,
            "allowed": everyone,
            "available": everyone,
        }
        decisions = [rule.decide(family, RoutingRequest(prediction=one, **asked)) for one in (one, other)]
        fields = ("checkpoint", "escalation", "choice", "kind", "routed", "difficulty", "move", "abstention")
        assert [getattr(decisions[0], field) for field in fields] == [getattr(decisions[1], field) for field in fields]
        assert_rounded_alike(decisions[0].forecasts, decisions[1].forecasts)


@needs_library
@given(
    st.builds(random_profile, st.integers(0, 10**6), st.integers(1, 12), st.integers(0, 5)),
    st.lists(st.integers(0, 3000), min_size=POSITION, max_size=POSITION),
    st.floats(-5, 5),
    st.lists(st.none() | st.integers(0, 3000), max_size=4),
)
def test_it_agrees_for_any_profile_prompt_and_budget(
    raw: dict[str, Any], counts: list[int], easiness: float, budgets: list[int | None]
) -> None:
    fast, plain = in_both(raw)
    assert_alike(fast, plain, counts, easiness, [None, *budgets])


@needs_library
def test_what_a_person_asks_for_is_what_the_rule_sees() -> None:
    predicted = Profile.of(random_profile(3, 4, 2)).predict("what is the sum of 1 and 2")
    for budget in BUDGETS:
        assert_rounded_alike(predicted.forecasts(budget), forecasts_of(predicted.choices, budget))
    assert predicted.escalations == {name: e for name, one in predicted.choices.items() if (e := one.escalation)}


def test_a_library_that_is_none_or_of_another_version_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compiled.load(tmp_path) is None
    assert not caplog.records
    (tmp_path / "_forecast.so").write_bytes(b"not a library")
    assert compiled.load(tmp_path) is None
    assert "_forecast.so cannot be used" in caplog.text
    if LIBRARY is not None:
        monkeypatch.setattr(compiled, "VERSION", compiled.VERSION + 1)
        assert compiled.load() is None
        assert "install this package again" in caplog.text


def test_without_the_library_a_profile_predicts_all_the_same() -> None:
    raw = random_profile(5, 3, 1)
    plain = Profile(Profile.of(raw).stored, library=None)
    assert set(plain.predict("what is 1+2").forecasts(20)) == {*raw["residuals"], *raw["escalations"]}


@needs_library
def test_what_the_library_points_to_lives_as_long_as_the_profile() -> None:
    fast, plain = in_both(random_profile(7, 6, 5))
    gc.collect()
    _ = [np.random.default_rng(0).random(10_000) for _ in range(50)]
    assert_alike(fast, plain, [2] * POSITION, 0.5, [None, 10])
