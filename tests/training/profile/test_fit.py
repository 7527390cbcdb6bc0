import dataclasses

import numpy as np
import pytest

from models import profile as profiles
from models.features import FEATURES, features_of
from models.forest import Forests
from training.profile import fit
from training.profile.cascade import simulated
from training.tasks.outcome import BudgetForced, Graded, Outcome
from training.tasks.prompts import prompts

P_CORRECT = {
    "base": {"easy": 0.99, "medium": 0.95, "hard": 0.85},
    "alpha-0.4": {"easy": 0.98, "medium": 0.85, "hard": 0.4},
}
TOKENS = {"base": {"easy": 40, "medium": 80, "hard": 150}, "alpha-0.4": {"easy": 15, "medium": 25, "hard": 50}}


def simulated_outcomes() -> dict[str, list[Graded]]:
    """Outcomes of two checkpoints whose behaviour depends on the difficulty alone."""
    rng = np.random.default_rng(0)
    questions = prompts("validation", 0, 600)
    return {
        name: [
            Graded(
                p.prompt,
                p.task,
                p.difficulty,
                tuple(
                    Outcome(
                        bool(rng.random() < P_CORRECT[name][p.difficulty]),
                        int(rng.gamma(20) * TOKENS[name][p.difficulty] / 20),
                        0,
                        1,
                        True,
                    )
                    for _ in range(4)
                ),
            )
            for p in questions
        ]
        for name in P_CORRECT
    }


def answering(outcomes: dict[str, list[Graded]]) -> dict[str, list[Graded]]:
    """The same outcomes with answers: the brief checkpoint's are longer than the base's, and differ more."""
    rng = np.random.default_rng(2)
    lengths, spread = {"base": 50, "alpha-0.4": 200}, {"base": 0.2, "alpha-0.4": 0.9}

    def with_answer(name: str, difficulty: str, o: Outcome) -> Outcome:
        length = lengths[name] * (2 if difficulty == "hard" else 1) * rng.lognormal(0, spread[name])
        return dataclasses.replace(o, tokens=o.reasoning_tokens + int(length))

    return {
        name: [
            dataclasses.replace(row, outcomes=tuple(with_answer(name, row.difficulty, o) for o in row.outcomes))
            for row in rows
        ]
        for name, rows in outcomes.items()
    }


def budget_forced(**slopes: float) -> dict[str, list[BudgetForced]]:
    """Budget-forced answers with P(correct) = sigmoid(slope log(1 + budget) - 3)."""
    rng = np.random.default_rng(0)
    budgets = np.expm1(rng.uniform(0, 5, 1000)).astype(int)
    return {
        name: [
            BudgetForced(p.prompt, int(budget), bool(rng.random() < 1 / (1 + np.exp(3 - slope * np.log1p(budget)))))
            for p, budget in zip(prompts("validation", 0, 1000), budgets, strict=True)
        ]
        for name, slope in slopes.items()
    }


BUDGET_FORCED = budget_forced(**{"base": 0.0, "alpha-0.4": 1.0})


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> tuple[dict, profiles.Profile]:
    raw = fit.fit(simulated_outcomes(), BUDGET_FORCED, seed=0)
    path = tmp_path_factory.mktemp("profile") / "profile.json"
    fit.save(raw, path)
    return raw, profiles.load(path)


def test_mean_prediction_matches_on_new_prompts(fitted):
    """Over the mix of difficulties; counts do not make it calibrated within every difficulty."""
    _, loaded = fitted
    predictions = [loaded.predict(p.prompt) for p in prompts("heldout", 1, 300)]
    for name, p_correct in P_CORRECT.items():
        predicted = np.mean([r.choices[name].p_correct for r in predictions])
        assert predicted == pytest.approx(np.mean(list(p_correct.values())), abs=0.08)
        tokens = np.mean([r.choices[name].expected_tokens() for r in predictions])
        assert tokens == pytest.approx(np.mean(list(TOKENS[name].values())), rel=0.2)


def test_budget_forced_accuracy_is_learned_for_each_checkpoint(fitted):
    raw, loaded = fitted
    choices = [loaded.predict(p.prompt).choices for p in prompts("heldout", 1, 100)]
    for name, slope in (("base", 0.0), ("alpha-0.4", 1.0)):
        for budget in (1, 12, 60):
            predicted = np.mean([one[name].budget_forced(budget) for one in choices])
            assert predicted == pytest.approx(1 / (1 + np.exp(3 - slope * np.log1p(budget))), abs=0.12)
    brief = raw["report"]["alpha-0.4"]
    assert brief["budget_forced_log_loss"] < 0.9 * brief["budget_forced_log_loss_constant"]


def test_predicted_accuracy_never_falls_as_the_budget_grows():
    raw = fit.fit(simulated_outcomes(), budget_forced(**{"base": -2.0, "alpha-0.4": 1.0}), seed=0)
    loaded = profiles.Profile.of(raw)
    for p in prompts("heldout", 1, 50):
        for prediction in loaded.predict(p.prompt).choices.values():
            assert np.all(np.diff([prediction.budget_forced(budget) for budget in range(0, 200, 3)]) >= 0)
            assert np.all(np.diff([prediction.p_correct_within(budget) for budget in range(0, 200, 3)]) >= -1e-12)


def test_small_differences_between_checkpoints_keep_their_order():
    """Three points on hard prompts, none on easy ones: much less than the difference between easy and hard."""
    rng = np.random.default_rng(1)
    questions = prompts("validation", 0, 1500)
    right = {"base": {"hard": 0.88}, "alpha-0.1": {"hard": 0.91}, "alpha-0.4": {"hard": 0.85}}

    def outcomes(name: str, difficulty: str) -> tuple[Outcome, ...]:
        chance = right[name].get(difficulty, 0.98)
        return tuple(Outcome(bool(rng.random() < chance), 30, 0, 1, True) for _ in range(4))

    rows = {
        name: [Graded(p.prompt, p.task, p.difficulty, outcomes(name, p.difficulty)) for p in questions]
        for name in right
    }
    fitted = fit.fit(rows, {name: [] for name in rows}, seed=0)
    loaded = profiles.Profile.of(fitted)
    hard = [loaded.predict(p.prompt).choices for p in prompts("heldout", 1, 200, difficulty="hard")]
    predicted = {name: np.mean([one[name].p_correct for one in hard]) for name in right}
    assert predicted["alpha-0.1"] > predicted["base"] + 0.01 > predicted["alpha-0.4"] + 0.02


def test_a_profile_beats_the_same_prediction_for_every_prompt(fitted):
    raw, _ = fitted
    for figures in raw["report"].values():
        assert figures["brier"] <= figures["brier_constant"]
        assert figures["tokens_mean_error"] < 0.7 * figures["tokens_mean_error_constant"]
    assert raw["report"]["alpha-0.4"]["auc"] > 0.7


def test_harder_prompts_have_a_higher_difficulty(fitted):
    _, loaded = fitted
    easy, hard = (
        np.mean([loaded.predict(p.prompt).difficulty for p in prompts("heldout", 1, 100, difficulty=d)])
        for d in ("easy", "hard")
    )
    assert easy < 0.35
    assert hard > 0.65


def test_only_prompts_like_the_fitting_prompts_are_familiar(fitted):
    _, loaded = fitted
    familiar = [loaded.predict(p.prompt).familiar for p in prompts("heldout", 1, 200)]
    assert np.mean(familiar) > 0.98
    for text in (
        "",
        "Write a poem about the sea.",
        "def f(x): return x",
        "Wie spät ist es in Tokio um 12 Uhr?",
        "🙂" * 50,
        "12 " * 5000,
        "What is (3 + 4) * 5?",
        "What is 144 / 12?",
        "What is 1.5 + 2?",
        "What is 2^8?",
    ):
        assert not loaded.predict(text).familiar


@pytest.fixture(scope="module")
def answered() -> tuple[dict[str, list[Graded]], dict]:
    rows = answering(simulated_outcomes())
    return rows, fit.fit(rows, BUDGET_FORCED, seed=0)


def test_expected_answer_tokens_match_on_new_prompts(answered):
    """Of a profile as JSON: E[answer tokens | x, c] = scale exp(forest) - 1."""
    rows, raw = answered
    stored = profiles.Profile.of(raw).stored
    assert stored.answers is not None
    assert list(stored.answer_scales) == list(rows)
    forest = Forests([stored.answers], len(FEATURES), len(rows))
    scales = np.array(list(stored.answer_scales.values()))
    for difficulty in (None, "hard"):
        fresh = [features_of(p.prompt, stored.vocabulary) for p in prompts("heldout", 1, 300, difficulty=difficulty)]
        expected = np.mean([scales * np.exp(forest(x)[:, 0]) - 1 for x in fresh], axis=0)
        true = [
            np.mean([o.answer_tokens for row in graded for o in row.outcomes if difficulty in (None, row.difficulty)])
            for graded in rows.values()
        ]
        assert expected == pytest.approx(true, rel=0.15), difficulty
    for name, figures in raw["report"].items():
        mean = np.mean([o.answer_tokens for row in rows[name] for o in row.outcomes])
        assert figures["answers_mean"] == pytest.approx(mean)
        assert figures["answers_error"] < figures["answers_error_constant"]


def test_answers_change_nothing_else_in_the_profile(fitted, answered):
    without, raw = fitted[0], answered[1]
    assert (without["answers"], without["answer_scales"]) == (None, {}), "its outcomes have no answer tokens"
    assert {key for key in raw if raw[key] != without[key]} == {"answers", "answer_scales", "report"}


def test_the_same_outcomes_and_seed_give_the_same_profile(answered):
    rows, raw = answered
    assert fit.fit(rows, BUDGET_FORCED, seed=0) == raw


@pytest.mark.parametrize("right", [0, 1, 11])
def test_checkpoints_that_are_almost_never_or_almost_always_correct_can_be_fitted(right, tmp_path):
    """At most one prompt has the other outcome, so most folds see only one outcome."""
    rows = [
        Graded(p.prompt, p.task, p.difficulty, (Outcome(i < right, 3, 4, 1, True),))
        for i, p in enumerate(prompts("validation", 0, 12))
    ]
    raw = fit.fit({"base": rows}, {"base": []}, seed=0)
    fit.save(raw, tmp_path / "profile.json")
    prediction = profiles.load(tmp_path / "profile.json").predict(rows[0].prompt).choices["base"]
    assert prediction.p_correct == pytest.approx(right / 12, abs=0.15)
    assert 0 <= raw["report"]["base"]["brier"] <= 0.25


def test_predictions_for_an_escalation_match_its_simulation(tmp_path):
    """The first checkpoint knows when it is wrong, so the escalation is as accurate as the base and cheap."""
    rows = simulated_outcomes()

    def knowing(o: Outcome) -> Outcome:
        return dataclasses.replace(o, tokens=900, surprisal=1.0 - o.correct)

    brief = [dataclasses.replace(row, outcomes=tuple(map(knowing, row.outcomes))) for row in rows["alpha-0.4"]]
    raw = fit.fit({"base": rows["base"], "alpha-0.4": brief}, BUDGET_FORCED, seed=0)
    fit.save(raw, tmp_path / "profile.json")
    loaded = profiles.load(tmp_path / "profile.json")
    assert set(raw["escalations"]) <= {f"alpha-0.4>base@{share}%" for share in (5, 10, 20, 30)}
    (most,) = [name for name in raw["escalations"] if "30%" in name]
    choices = [loaded.predict(p.prompt).choices for p in prompts("heldout", 1, 200)]
    right = np.mean([one[most].p_correct for one in choices])
    tokens = np.mean([one[most].expected_tokens() for one in choices])
    true = simulated(brief, rows["base"], raw["escalations"][most]["surprisal"])
    assert right == pytest.approx(np.mean([row.accuracy for row in true]), abs=0.02)
    assert tokens == pytest.approx(np.mean([row.reasoning_tokens for row in true]), rel=0.1)
    assert right > np.mean([one["alpha-0.4"].p_correct for one in choices]) + 0.15


def test_checkpoints_measured_on_different_prompts_are_rejected():
    one = [Graded("1 + 1", "sum", "easy", (Outcome(True, 3, 4, 1, True),))]
    other = [Graded("2 + 2", "sum", "easy", (Outcome(True, 3, 4, 1, True),))]
    with pytest.raises(ValueError, match="alpha-0 was measured on other prompts"):
        fit.fit({"base": one, "alpha-0": other}, {}, seed=0)
