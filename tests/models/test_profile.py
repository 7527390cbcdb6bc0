from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import models
from models import profile as profiles
from models.features import FEATURES
from models.prediction import LEVELS, ChoicePrediction
from models.profile import Profile
from models.stored import SCHEMA_VERSION, ProfileError

WORDS = ["what", "is", "plus", "times"]
DIGITS, POSITION = FEATURES.index("digits"), len(FEATURES)


def steps(feature: int, at: list[float], height: float, intercept: float = 0.0) -> dict[str, Any]:
    """A forest that rises by `height` at each of these thresholds of one input."""
    trees = len(at)
    return {
        "intercept": intercept,
        "roots": [3 * tree for tree in range(trees)],
        "feature": [feature, 0, 0] * trees,
        "threshold": [value for threshold in at for value in (threshold, 0.0, 0.0)],
        "left": [3 * tree + node for tree in range(trees) for node in (1, 1, 2)],
        "right": [3 * tree + node for tree in range(trees) for node in (2, 1, 2)],
        "value": [0.0, 0.0, height] * trees,
    }


def stored(**changes: Any) -> dict[str, Any]:
    """A profile of two checkpoints in which more digits mean harder prompts and longer thinking."""
    thresholds = list(np.log1p([2.5, 5.5, 11.5]))
    return {
        "schema_version": SCHEMA_VERSION,
        "vocabulary": WORDS,
        "lower": [1.0 if name == "numbers" else 0.0 for name in FEATURES],  # two numbers
        "upper": [10.0] * len(FEATURES),
        "difficulties": [0.02, 0.1, 0.3, 0.6],
        "correct": steps(DIGITS, thresholds, -1.5, 4.0),
        "scales": {"base": [1.0, 0.0], "alpha-0.4": [2.0, -2.0]},
        "tokens": steps(DIGITS, thresholds, 0.7, 2.0),
        "spread": steps(POSITION, [0.5], -1.0),
        "escalations": {},
        "budget_forced": steps(POSITION, [1.5, 3.5], 1.5, -2.0),
        "budget_forced_shifts": {"base": [0.0] * 5, "alpha-0.4": [-1.0, -1.0, -3.0, -1.0, -1.0]},
        "residuals": {name: list(np.linspace(-0.5, 0.5, len(LEVELS))) for name in ("base", "alpha-0.4")},
        "report": {},
    } | changes


ANSWERS = steps(DIGITS, [float(np.log1p(2.5))], 0.7, 3.0)
SCALES = {"base": 1.2, "alpha-0.4": 1.05}
BOTH = {"first": "alpha-0.4", "second": "base", "surprisal": 1.5}


def escalating(**changes: object) -> dict[str, Any]:
    """The same profile with an escalation from `alpha-0.4` to the base."""
    return stored(
        escalations={"both": BOTH | {"scale": [1.5, 0.0], "unsure": [3.0, -2.0, 0.1], "measured": {}} | changes}
    )


def loaded(directory: Path, content: object) -> Profile:
    (directory / "profile.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return profiles.load(directory / "profile.json")


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    return loaded(tmp_path_factory.mktemp("profile"), stored())


def test_the_logits_of_two_checkpoints_differ_by_scale_and_shift(profile: Profile) -> None:
    """P(correct) = sigmoid(a f + b): here twice the logit of the base, minus 2."""
    for prompt in ("what is 1", "what is 1 plus 123456", "what is 123456 times 123456"):
        choices = profile.predict(prompt).choices
        base, other = (np.log(p / (1 - p)) for p in (choices["base"].p_correct, choices["alpha-0.4"].p_correct))
        assert other == pytest.approx(2 * base - 2)


def test_an_escalation_spends_the_first_checkpoint_s_tokens_and_if_it_was_unsure_the_second_s_too(
    tmp_path: Path,
) -> None:
    """f is the base's logit, g its log tokens; the base's budget is what the first checkpoint leaves of it."""
    choices = loaded(tmp_path, escalating()).predict("what is 1 plus 123456").choices
    both, base, brief = choices["both"], choices["base"], choices["alpha-0.4"]
    assert both.escalation is not None
    assert both.escalation.model_dump() == BOTH
    assert (base.escalation, brief.escalation) == (None, None)
    f, g = np.log(base.p_correct / (1 - base.p_correct)), np.log1p(base.tokens).mean()
    unsure = 1 / (1 + np.exp(-(3 - 2 * f + 0.1 * g)))
    assert 0.1 < unsure < 0.9
    assert np.log(both.p_correct / (1 - both.p_correct)) == pytest.approx(1.5 * f)
    assert both.expected_tokens() == pytest.approx(brief.expected_tokens() + unsure * base.expected_tokens())
    sums = brief.tokens + base.tokens
    for budget in (10, 20, 40, 60, 100, 1000):
        spent = [float(np.interp(budget, tokens, LEVELS)) for tokens in (brief.tokens, sums)]
        assert both.p_within(budget) == pytest.approx((1 - unsure) * spent[0] + unsure * spent[1])
        assert np.interp(budget, both.tokens, LEVELS) == pytest.approx(both.p_within(budget), abs=0.05)
        within, left = both.p_within(budget), max(budget - brief.expected_tokens(), 0)
        expected = min(both.p_correct, both.p_correct * within + base.budget_forced(left) * (1 - within))
        assert both.p_correct_within(budget) == pytest.approx(expected)
    assert both.expected_tokens(15) < both.expected_tokens(60) < both.expected_tokens()
    assert (both.tokens[0], both.tokens[-1]) == (brief.tokens[0], sums[-1])


@given(st.text())
def test_predictions_are_in_range_for_any_text(profile: Profile, prompt: str) -> None:
    predicted = profile.predict(prompt)
    assert predicted.difficulty is not None
    assert 0.0 <= predicted.difficulty <= 1.0
    assert set(predicted.choices) == {"base", "alpha-0.4"}
    for prediction in predicted.choices.values():
        assert 0.0 <= prediction.p_correct <= 1.0
        assert np.all(np.isfinite(prediction.tokens))
        assert np.all(np.diff(prediction.tokens) >= 0)


@pytest.mark.parametrize("text", ["1" * 1_000_000, "1 " * 500_000, "x" * 1_000_000, "multiply " * 100_000])
def test_predicting_takes_linear_time_at_most(profile: Profile, text: str) -> None:
    """Quadratic time over a million characters would be hours, so the timeout would end this test."""
    assert not profile.predict(text).familiar


def test_more_digits_predict_harder_prompts_and_longer_thinking(profile: Profile) -> None:
    easy, hard = profile.predict("What is 1 plus 2?"), profile.predict("What is 123456 times 654321?")
    assert (easy.difficulty or 0) < (hard.difficulty or 0)
    for name in easy.choices:
        assert easy.choices[name].p_correct > hard.choices[name].p_correct
        assert easy.choices[name].expected_tokens() < hard.choices[name].expected_tokens()


def test_every_checkpoint_has_a_spread_of_its_own(profile: Profile) -> None:
    choices = profile.predict("What is 1 plus 2?").choices
    base, brief = (np.log1p(choices[name].tokens) for name in ("base", "alpha-0.4"))
    assert base.mean() == pytest.approx(brief.mean())
    assert brief[-1] - brief[0] == pytest.approx((base[-1] - base[0]) * np.exp(-1))


def test_a_prompt_unlike_those_of_the_fit_is_unfamiliar(profile: Profile) -> None:
    assert profile.predict("What is 1 plus 2?").familiar
    assert not profile.predict("What is what?").familiar, "no number"
    assert not profile.predict("What is 12?").familiar, "fewer numbers than any fitting prompt"
    assert not profile.predict("Paint 3 elephants on yonder castle").familiar, "unknown words"
    assert not profile.predict("1 plus " * 20_000).familiar, "longer than any fitting prompt"
    assert not profile.predict("").familiar
    assert not profile.predict("1999 12").familiar, "names no operation"
    assert profile.predict("19 - 12").familiar


predictions = st.builds(
    lambda p, tokens, most, scale, before: ChoicePrediction(
        p, np.sort(np.array(tokens)), lambda budget: most * budget / (scale + budget), before
    ),
    st.floats(0, 1),
    st.lists(st.floats(0, 1e6), min_size=len(LEVELS), max_size=len(LEVELS)),
    st.floats(0, 1),
    st.floats(1, 1e6),
    st.floats(0, 1e3),
)
budgets = st.none() | st.integers(0, 2_000_000)


@given(predictions, budgets, budgets)
def test_a_larger_budget_never_makes_success_less_likely_or_thinking_shorter(
    prediction: ChoicePrediction, one: int | None, other: int | None
) -> None:
    small, large = sorted((one, other), key=lambda budget: float("inf") if budget is None else budget)
    assert prediction.p_correct_within(small) <= prediction.p_correct_within(large) * (1 + 1e-12)
    assert prediction.p_correct_within(large) <= prediction.p_correct
    assert prediction.expected_tokens(small) <= prediction.expected_tokens(large) * (1 + 1e-12)
    assert small is None or prediction.expected_tokens(small) <= small * (1 + 1e-12)


def test_budget_forced_thinking_can_still_lead_to_a_correct_answer() -> None:
    tokens = np.full(len(LEVELS), 50.0)
    assert ChoicePrediction(0.9, tokens).p_correct_within(49) == pytest.approx(0)
    predicted = ChoicePrediction(0.9, tokens, lambda budget: budget / 100)
    assert [predicted.p_correct_within(budget) for budget in (0, 3, 49)] == pytest.approx([0, 0.03, 0.49])
    assert predicted.p_correct_within(50) == predicted.p_correct_within(None) == 0.9
    assert ChoicePrediction(0.3, tokens, lambda budget: budget / 100).p_correct_within(49) == pytest.approx(0.3), (
        "a budget never helps"
    )


def test_budget_forced_accuracy_is_the_forest_plus_the_checkpoint_s_shifts(profile: Profile) -> None:
    """At budgets of 0, 1, 3, 7 and 15; interpolated between them, and never falling."""
    choices = profile.predict("What is 1 plus 2?").choices
    for name, logits in (("base", [-2, -2, -0.5, -0.5, 1]), ("alpha-0.4", [-3, -3, -3, -1.5, 0])):
        levels = [1 / (1 + np.exp(-z)) for z in logits]
        predicted = [choices[name].budget_forced(budget) for budget in (0, 1, 3, 7, 15, 1e9)]
        assert predicted == pytest.approx([*levels, levels[-1]])
        assert choices[name].budget_forced(2**3.5 - 1) == pytest.approx((levels[3] + levels[4]) / 2)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", "not JSON"),
        ([], "version"),
        (stored(schema_version=1), "version"),
        (stored(scales={"base": [1.0, 0.0]}), "scales"),
        (stored(lower=[0.0]), "lower"),
        (stored(upper=[]), "upper"),
        (stored(residuals={}), "residuals"),
        (stored(budget_forced=steps(POSITION + 1, [0.5], 1.0)), "inputs"),
        (stored(budget_forced_shifts={"base": [0.0]}), "budget_forced_shifts"),
        (stored(budget_forced_shifts={"base": [0.0], "alpha-0.4": [0.0, 1.0]}), "budget_forced_shifts"),
        (stored(budget_forced_shifts={"base": [], "alpha-0.4": []}), "budget_forced_shifts"),
        (stored(residuals={"base": [0.0]}), "residuals.base"),
        (stored(escalations={"both": BOTH}), "escalations.both.scale"),
        (stored(escalations={"base": escalating()["escalations"]["both"]}), "escalations.base"),
        (escalating(first="alpha-0.9"), "escalations.both.first: alpha-0.9"),
        (escalating(second="both"), "escalations.both.second: both"),
        (escalating(surprisal="much"), "escalations.both.surprisal"),
        (stored(correct=steps(POSITION + 1, [0.5], 1.0)), "inputs"),
        (stored(tokens=steps(0, [0.5], 1.0) | {"left": [0, 1, 2]}), "node 0"),
        (stored(tokens=steps(0, [0.5], 1.0) | {"roots": [3]}), "roots"),
        (stored(spread=steps(0, [0.5], 1.0) | {"value": [0.0]}), "feature has 3 values"),
        (stored(difficulties="hard"), "difficulties"),
        (stored(surprise=1), "surprise"),
        (stored(upper=[1e308] * len(FEATURES)), "math range error"),
        (stored(budget_forced_shifts={"base": [0.0] * 65, "alpha-0.4": [0.0] * 65}), "too large"),
        (stored(correct=steps(DIGITS, [1.0] * 500_000, 1.0)), "too large"),
        (stored(correct=steps(10**30, [1.0], 1.0)), "inputs"),
        (stored(report={"a\nb" * 1000: 1}), "report"),
        (stored(answers=ANSWERS), "answer_scales has nothing, residuals has base, alpha-0.4"),
        (stored(answers=ANSWERS, answer_scales={"base": 1.0}), "answer_scales has base, residuals"),
        (stored(answers=ANSWERS, answer_scales={"alpha-0.4": 1.1, "base": 1.0}), "answer_scales has alpha-0.4, base"),
        (stored(answers=ANSWERS, answer_scales={"base": "many", "alpha-0.4": 1.0}), "answer_scales.base"),
        (stored(answers=ANSWERS | {"roots": [3]}, answer_scales=SCALES), "answers"),
        (stored(answers=steps(DIGITS, [1.0] * 500_000, 1.0), answer_scales=SCALES), "too large"),
    ],
)
def test_an_unusable_profile_is_rejected_in_one_line(content: object, named: str, tmp_path: Path) -> None:
    with pytest.raises(ProfileError) as error:
        loaded(tmp_path, content)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_answer_tokens_are_stored_and_change_no_other_prediction(tmp_path: Path) -> None:
    answering = loaded(tmp_path, stored(answers=ANSWERS, answer_scales=SCALES))
    assert answering.stored.answers is not None
    assert answering.stored.answers.intercept == 3.0
    assert answering.stored.answer_scales == SCALES
    one, other = (p.predict("what is 1 plus 2").choices["base"] for p in (answering, Profile.of(stored())))
    assert (one.p_correct, one.expected_tokens()) == (other.p_correct, other.expected_tokens())


@pytest.mark.parametrize("version", [7, 8, 9])
def test_a_profile_of_an_earlier_version_has_no_answer_tokens(version: int, tmp_path: Path) -> None:
    earlier = loaded(tmp_path, stored(schema_version=version)).stored
    assert (earlier.answers, earlier.answer_scales) == (None, {})


def test_a_missing_profile_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="cannot be read"):
        profiles.load(tmp_path / "none.json")


SHIPPED = Path(models.__file__).parent / "abacus" / "profile.json"
OFF_TOPIC = {
    "empty": "",
    "prose": "Write a poem about the sea.",
    "a story with a sum in it": "Explain 12 + 35 in detail and write a story about it.",
    "code": "def add(a, b):\n    return a + b  # add(2, 2) is 4",
    "SQL": "SELECT name FROM people WHERE age = 12",
    "German": "Was ist 12 + 35 - 8?",
    "French": "Combien font 12 + 35 - 8 ?",
    "Russian": "Сколько будет 12 + 35?",
    "Chinese": "12加35减8等于多少?",
    "emoji": "🙂🙂 12 + 35 🙂",
    "a greeting": "Hi, can you help me with my homework? 1",
    "a story with a number missing": "There are 7 apples. How many are left?",
    "algebra": "Solve x^2 + 3x = 10 for x.",
    "a word problem": "Natalia sold 48 clips to her friends in April and half as many in May. How many in all?",
    "20,000 characters of familiar questions": "What is 12 + 35 - 8? " * 953,
    "20,000 characters of one letter": "x" * 20_000,
}


@pytest.mark.parametrize("kind", OFF_TOPIC)
def test_the_shipped_profile_abstains_from_prompts_unlike_those_of_its_fit(kind: str) -> None:
    assert not profiles.load(SHIPPED).predict(OFF_TOPIC[kind]).familiar


@pytest.mark.parametrize("prompt", ["What is 12 + 35 - 8?", "What is 47 * 86?", "Work out 8 + 5 × 5."])  # noqa: RUF001
def test_the_shipped_profile_is_familiar_with_arithmetic(prompt: str) -> None:
    assert profiles.load(SHIPPED).predict(prompt).familiar


FIELDS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(field=st.sampled_from(sorted(stored())), value=FIELDS)
def test_any_value_in_any_field_loads_and_predicts_or_is_rejected_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, field: str, value: object
) -> None:
    try:
        loaded(tmp_path_factory.getbasetemp(), stored() | {field: value}).predict("What is 1 plus 2?")
    except ProfileError as error:
        assert str(error).isprintable()  # noqa: PT017  it need not be rejected


def test_a_profile_to_which_all_prompts_are_alike_does_not_rank_them_and_predicts_no_difficulty() -> None:
    assert Profile.of(stored()).ranks
    for alike in ([0.25] * 101, []):
        profile = Profile.of(stored(difficulties=alike))
        assert not profile.ranks
        assert profile.predict("What is 1 plus 2?").difficulty is None
