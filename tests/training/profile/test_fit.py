import dataclasses

import numpy as np
import pytest

from models import profile as reading
from models.forest import Forest, Forests
from training.profile import fit
from training.profile.cascade import simulated
from training.tasks.outcome import BudgetForced, Graded, Outcome
from training.tasks.prompts import prompts

P_CORRECT = {
    "base": {"easy": 0.99, "medium": 0.95, "hard": 0.85},
    "alpha-0.4": {"easy": 0.98, "medium": 0.85, "hard": 0.4},
}
TOKENS = {"base": {"easy": 40, "medium": 80, "hard": 150}, "alpha-0.4": {"easy": 15, "medium": 25, "hard": 50}}


def imagined() -> dict[str, list[Graded]]:
    """Outcomes of two checkpoints whose behaviour depends on the difficulty alone."""
    rng = np.random.default_rng(0)
    asked = prompts("test", 0, 600)
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
            for p in asked
        ]
        for name in P_CORRECT
    }


def stopped(**slopes: float) -> dict[str, list[BudgetForced]]:
    """Answers after stopped thinking: P(right) = sigmoid(slope log(1 + budget) - 3)."""
    rng = np.random.default_rng(0)
    budgets = np.expm1(rng.uniform(0, 5, 1000)).astype(int)
    return {
        name: [
            BudgetForced(p.prompt, int(budget), bool(rng.random() < 1 / (1 + np.exp(3 - slope * np.log1p(budget)))))
            for p, budget in zip(prompts("test", 0, 1000), budgets, strict=True)
        ]
        for name, slope in slopes.items()
    }


CUTS = stopped(**{"base": 0.0, "alpha-0.4": 1.0})


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> tuple[dict, reading.Profile]:
    raw = fit.fit(imagined(), CUTS, seed=0)
    path = tmp_path_factory.mktemp("profile") / "profile.json"
    fit.save(raw, path)
    return raw, reading.load(path)


def test_it_is_calibrated_on_new_prompts(fitted):
    """Over the mix; a linear model on counts is not calibrated within every difficulty."""
    _, loaded = fitted
    readings = [loaded.predict(p.prompt) for p in prompts("heldout", 1, 300)]
    for name, p_correct in P_CORRECT.items():
        predicted = np.mean([r.choices[name].p_correct for r in readings])
        assert predicted == pytest.approx(np.mean(list(p_correct.values())), abs=0.08)
        tokens = np.mean([r.choices[name].expected_tokens() for r in readings])
        assert tokens == pytest.approx(np.mean(list(TOKENS[name].values())), rel=0.2)


def test_what_is_right_after_stopped_thinking_is_learned_for_each_checkpoint(fitted):
    raw, loaded = fitted
    said = [loaded.predict(p.prompt).choices for p in prompts("heldout", 1, 100)]
    for name, slope in (("base", 0.0), ("alpha-0.4", 1.0)):
        for budget in (1, 12, 60):
            found = np.mean([one[name].budget_forced(budget) for one in said])
            assert found == pytest.approx(1 / (1 + np.exp(3 - slope * np.log1p(budget))), abs=0.12)
    brief = raw["report"]["alpha-0.4"]
    assert brief["budget_forced_log_loss"] < 0.9 * brief["budget_forced_log_loss_constant"]


def test_more_budget_is_never_said_to_make_an_answer_worse():
    raw = fit.fit(imagined(), stopped(**{"base": -2.0, "alpha-0.4": 1.0}), seed=0)
    loaded = reading.Profile.of(raw)
    for p in prompts("heldout", 1, 50):
        for prediction in loaded.predict(p.prompt).choices.values():
            assert np.all(np.diff([prediction.budget_forced(budget) for budget in range(0, 200, 3)]) >= 0)


def test_the_stored_forest_of_stopped_thinking_says_what_the_fitted_model_does():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(800, 3))
    right = (inputs[:, 0] + inputs[:, 2] > rng.normal(size=800)).astype(float)
    model = fit._fit_stopped(inputs, right, 20, 0)
    read = Forests([Forest.model_validate(fit._forest(model, right))], 3, 1)
    for row, expected in zip(inputs, model.decision_function(inputs), strict=True):
        assert read(row)[0, 0] == pytest.approx(expected)


def test_a_checkpoint_is_placed_by_what_it_makes_of_easy_and_hard_prompts():
    rng = np.random.default_rng(0)
    easiness = rng.normal(2, 1.5, 4000)
    for a, b in ((1.0, 0.0), (1.3, -0.4), (0.7, 0.5)):
        share = rng.binomial(4, 1 / (1 + np.exp(-(a * easiness + b)))) / 4
        assert fit._scale(easiness, share) == pytest.approx((a, b), abs=0.1)


def test_a_checkpoint_that_is_always_right_is_placed_above_the_others():
    easiness = np.random.default_rng(0).normal(2, 1, 500)
    a, b = fit._scale(easiness, np.ones(500))
    assert np.isfinite(a)
    assert b > 0.5


def test_small_differences_between_checkpoints_are_read_in_their_right_order():
    """Three points on hard prompts, none on easy ones: far less than what separates easy from hard."""
    rng = np.random.default_rng(1)
    asked = prompts("test", 0, 1500)
    right = {"base": {"hard": 0.88}, "alpha-0.1": {"hard": 0.91}, "alpha-0.4": {"hard": 0.85}}

    def outcomes(name: str, difficulty: str) -> tuple[Outcome, ...]:
        chance = right[name].get(difficulty, 0.98)
        return tuple(Outcome(bool(rng.random() < chance), 30, 0, 1, True) for _ in range(4))

    rows = {
        name: [Graded(p.prompt, p.task, p.difficulty, outcomes(name, p.difficulty)) for p in asked] for name in right
    }
    fitted = fit.fit(rows, {name: [] for name in rows}, seed=0)
    loaded = reading.Profile.of(fitted)
    hard = [loaded.predict(p.prompt).choices for p in prompts("heldout", 1, 200, difficulty="hard")]
    said = {name: np.mean([one[name].p_correct for one in hard]) for name in right}
    assert said["alpha-0.1"] > said["base"] + 0.01 > said["alpha-0.4"] + 0.02


def test_it_beats_the_guess_that_does_not_look_at_the_prompt(fitted):
    raw, _ = fitted
    for figures in raw["report"].values():
        assert figures["brier"] <= figures["brier_constant"]
        assert figures["tokens_mean_error"] < 0.7 * figures["tokens_mean_error_constant"]
    assert raw["report"]["alpha-0.4"]["auc"] > 0.7


def test_harder_prompts_read_as_harder(fitted):
    _, loaded = fitted
    easy, hard = (
        np.mean([loaded.predict(p.prompt).difficulty for p in prompts("heldout", 1, 100, difficulty=d)])
        for d in ("easy", "hard")
    )
    assert easy < 0.35
    assert hard > 0.65


def test_its_own_kind_of_prompt_is_familiar_and_others_are_not(fitted):
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


def test_the_same_outcomes_and_seed_give_the_same_profile(fitted):
    raw, _ = fitted
    assert fit.fit(imagined(), CUTS, seed=0) == raw


@pytest.mark.parametrize("right", [0, 1, 11])
def test_checkpoints_that_are_hardly_ever_or_nearly_always_right_can_be_fitted(right, tmp_path):
    """One prompt alone decides differently: then most folds see nothing but one outcome."""
    rows = [
        Graded(p.prompt, p.task, p.difficulty, (Outcome(i < right, 3, 4, 1, True),))
        for i, p in enumerate(prompts("test", 0, 12))
    ]
    raw = fit.fit({"base": rows}, {"base": []}, seed=0)
    fit.save(raw, tmp_path / "profile.json")
    prediction = reading.load(tmp_path / "profile.json").predict(rows[0].prompt).choices["base"]
    assert prediction.p_correct == pytest.approx(right / 12, abs=0.15)
    assert 0 <= raw["report"]["base"]["brier"] <= 0.25


def test_second_thoughts_that_are_worth_it_are_predicted_as_what_they_come_to(tmp_path):
    """The brief one knows when it is wrong: second thoughts are as right as the base, and cost little more."""
    rows = imagined()

    def knowing(o: Outcome) -> Outcome:
        return dataclasses.replace(o, tokens=900, surprisal=1.0 - o.correct)

    brief = [dataclasses.replace(row, outcomes=tuple(map(knowing, row.outcomes))) for row in rows["alpha-0.4"]]
    raw = fit.fit({"base": rows["base"], "alpha-0.4": brief}, CUTS, seed=0)
    fit.save(raw, tmp_path / "profile.json")
    loaded = reading.load(tmp_path / "profile.json")
    assert set(raw["escalations"]) <= {f"alpha-0.4>base@{share}%" for share in (5, 10, 20, 30)}
    (most,) = [name for name in raw["escalations"] if "30%" in name]
    said = [loaded.predict(p.prompt).choices for p in prompts("heldout", 1, 200)]
    right = np.mean([one[most].p_correct for one in said])
    tokens = np.mean([one[most].expected_tokens() for one in said])
    true = simulated(brief, rows["base"], raw["escalations"][most]["surprisal"])
    assert right == pytest.approx(np.mean([row.accuracy for row in true]), abs=0.02)
    assert tokens == pytest.approx(np.mean([row.reasoning_tokens for row in true]), rel=0.1)
    assert right > np.mean([one["alpha-0.4"].p_correct for one in said]) + 0.15


def test_checkpoints_measured_on_other_prompts_are_refused():
    one = [Graded("1 + 1", "sum", "easy", (Outcome(True, 3, 4, 1, True),))]
    other = [Graded("2 + 2", "sum", "easy", (Outcome(True, 3, 4, 1, True),))]
    with pytest.raises(ValueError, match="alpha-0 was measured on other prompts"):
        fit.fit({"base": one, "alpha-0": other}, {}, seed=0)
