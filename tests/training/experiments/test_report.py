"""The report has the figures of the results, with intervals over seeds."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from training.errors import StageError
from training.experiments import arms, report
from training.experiments.experiment import Result

PARTS = ("overall", "easy", "medium", "hard")


def measures(tokens, accuracy, continues):
    per_part = {
        "tokens": tokens,
        "accuracy": accuracy,
        "greedy tokens": tokens - 5,
        "greedy accuracy": accuracy,
        "second episodes after a right first": continues,
        "second episodes after a wrong first": None,
    }
    return {f"{name}, {part}": value for part in PARTS for name, value in per_part.items()}


def result(recipe, seed, *, tokens, accuracy, episodes=(), **made_from):
    """Seeds differ by a token."""
    same = {"base": "abc", "prompts": 600, "samples": 2, "data": {}, "steps": 32, "prompts_per_step": 8, "rollouts": 8}
    return Result(
        recipe=recipe,
        reward="l2t" if episodes else "alpha",
        seed=seed,
        made_from={**same, **made_from},
        difficulties=PARTS[1:],
        checkpoints={
            "base": measures(100 + seed, 0.75, 1.0),
            "alpha-0.2": measures(tokens + seed, accuracy, 0.25),
        },
        alphas={"alpha-0.2": 0.2},
        episodes=episodes,
    )


def write_results(directory, *results):
    directory.mkdir(exist_ok=True)
    for each in results:
        (directory / f"{each.recipe}.seed-{each.seed}.json").write_text(each.model_dump_json())
    return directory


@pytest.fixture
def results(tmp_path):
    """Two rewards: the dense one uses 20 tokens more, and its accuracy is 0.25 higher."""
    paid = ((1, 0.5, 0.1), (2, 0.0, 1.9))
    return write_results(
        tmp_path / "results",
        *(result("alpha", seed, tokens=40, accuracy=0.5) for seed in range(3)),
        *(result("dense", seed, tokens=60, accuracy=0.75, episodes=paid) for seed in range(3)),
    )


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=8))
def test_the_interval_is_a_t_interval(values):
    estimate = arms.over_seeds(values)
    assert estimate.mean == pytest.approx(np.mean(values), abs=1e-9)
    if np.std(values) > 1e-6:
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert (estimate.low, estimate.high) == pytest.approx((low, high))


def test_one_seed_has_no_interval(tmp_path):
    with pytest.raises(ValueError, match="at least two"):
        arms.over_seeds([1.0])
    one = write_results(tmp_path / "one", result("alpha", 0, tokens=40, accuracy=0.5))
    with pytest.raises(StageError, match=r"need at least two seeds that all recipes have; there are alpha with \[0\]"):
        report.write(one, tmp_path / "out")


def test_an_interval_is_clipped_to_the_range_of_its_figure():
    far_apart = {0: measures(0, 0.0, 1.0), 1: measures(10, 1.0, 0.0)}
    figures = arms.Arm("l2t", "l2t", 0.2, far_apart).figures
    for name, bounds in {"accuracy, hard": (0, 1), "second episodes after a right first, hard": (0, 1)}.items():
        assert (figures[name].low, figures[name].high) == bounds
    assert figures["tokens, hard"].low == 0
    assert figures["tokens, hard"].high > 10


def test_figures_and_page_agree_with_the_results(results, tmp_path):
    report.write(results, tmp_path / "out")
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert figures["base"]["tokens, overall"]["mean"] == 101
    assert figures["alpha 0.2"]["tokens, easy"]["mean"] == 41
    assert figures["alpha 0.2"]["accuracy, hard"] == {"mean": 0.5, "low": 0.5, "high": 0.5}
    assert figures["alpha 0.2"]["second episodes after a wrong first, hard"] is None
    text = (tmp_path / "out" / "report.md").read_text()
    assert "3 seeds, 600 held-out prompts each" in text
    assert "| dense 0.2 | alpha 0.2 | **+20.0 (+20.0 to +20.0)** | **+25.0 (+25.0 to +25.0)** | " in text
    assert "| alpha 0.2 | 41.0 (38.5 to 43.5) | 50.0 % | 36.0 (" in text, (
        "seeds that agree say nothing about others, so there is no interval"
    )


def test_every_arm_is_compared_with_the_base_and_the_shortest_as_accurate_one_is_recommended(results, tmp_path):
    report.write(results, tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    shares = [tokens / base for tokens, base in ((40, 100), (41, 101), (42, 102))]
    assert f"| alpha 0.2 | {100 * np.mean(shares):.1f} % (" in text
    assert " | -25.0 (-25.0 to -25.0) | " in text
    assert "on average, sampled and greedily: **dense 0.2**, with 60.4 %" in text, "alpha is shorter, but less accurate"
    assert "(no interval is entirely below 0), sampled and greedily: **dense 0.2**, with 60.4 %" in text


def test_a_shorter_arm_whose_loss_may_be_chance_is_named_too(results, tmp_path):
    for seed, accuracy in enumerate((0.7, 0.76, 0.73)):
        write_results(results, result("short", seed, tokens=20, accuracy=accuracy))
    report.write(results, tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "on average, sampled and greedily: **dense 0.2**" in text
    assert "(no interval is entirely below 0), sampled and greedily: **short 0.2**, with 20.8 %" in text


def test_without_an_arm_as_accurate_as_the_base_none_is_recommended(tmp_path):
    rows = (result("alpha", seed, tokens=40, accuracy=0.5) for seed in range(3))
    report.write(write_results(tmp_path / "results", *rows), tmp_path / "out")
    assert (tmp_path / "out" / "report.md").read_text().count("sampled and greedily: none.") == 2


def test_rewards_of_the_outcome_alone_are_baselines(results, tmp_path):
    plain = (result("brief", seed, tokens=50, accuracy=0.6) for seed in range(3))
    write_results(results, *(each.model_copy(update={"reward": "truncation"}) for each in plain))
    report.write(results, tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| brief 0.2 | alpha 0.2 |" not in text, "it has no dense reward"
    assert "| dense 0.2 | brief 0.2 |" in text
    assert "above the line through base, outcome, alpha and truncation, seed by seed" in text


def test_at_equal_tokens_a_dense_arm_is_compared_with_the_line_through_the_plain_ones(results, tmp_path):
    report.write(results, tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    line = 0.5 + 0.25 * 20 / 60  # from alpha's 40 tokens to the base's 100, in every seed
    assert f"| dense 0.2 | +{100 * (0.75 - line):.1f} (" in text
    write_results(
        results, *(result("dense", seed, tokens=30, accuracy=0.75, episodes=((1, 0.5, 0.1),)) for seed in range(3))
    )
    report.write(results, tmp_path / "out")
    assert "| dense 0.2 | is outside their token range" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(("more", "words"), [(30, "fall at every step"), (50, "do not fall at every step")])
def test_the_page_reports_how_tokens_change_with_alpha(results, tmp_path, more, words):
    for path in results.glob("alpha*"):
        saved = Result.model_validate_json(path.read_text())
        checkpoints = {**saved.checkpoints, "alpha-0.4": measures(more + saved.seed, 0.5, 0.1)}
        alphas = {"alpha-0.4": 0.4, "alpha-0.2": 0.2}
        path.write_text(saved.model_copy(update={"checkpoints": checkpoints, "alphas": alphas}).model_dump_json())
    report.write(results, tmp_path / "out")
    change = f"{more - 40:+.1f}"
    expected = f"- alpha: tokens {words}, 0.2 to 0.4: {change} ({change} to {change})"
    assert expected in (tmp_path / "out" / "report.md").read_text()


def test_every_picture_on_the_page_exists(results, tmp_path):
    report.write(results, tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    shown = {part.partition(")")[0] for part in text.split("](")[1:]}
    assert shown == {path.name for path in (tmp_path / "out").glob("*.png")}
    assert len(shown) == 4
    for path in results.glob("dense*"):
        path.unlink()
    report.write(results, tmp_path / "plain")
    assert "](gain" not in (tmp_path / "plain" / "report.md").read_text(), (
        "without a dense reward there are no pictures of it"
    )


def test_results_that_cannot_be_compared_are_rejected(results, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(StageError, match="there are no results"):
        report.write(tmp_path / "none", tmp_path / "out")
    few = write_results(tmp_path / "few", *(result("alpha", seed, tokens=40, accuracy=0.5) for seed in (0, 1)))
    write_results(few, *(result("other", seed, tokens=40, accuracy=0.5) for seed in (1, 2)))
    with pytest.raises(StageError, match=r"two seeds that all recipes have; there are alpha with \[0, 1\], other with"):
        report.write(few, tmp_path / "out")
    write_results(results, result("dense", 2, tokens=60, accuracy=0.75, episodes=((1, 0.5, 0.1),), base="xyz"))
    with pytest.raises(StageError, match=r'differ in base: "abc" and "xyz"'):
        report.write(results, tmp_path / "out")


def test_a_recipe_may_have_more_seeds_than_another_which_count_where_both_have_them(results, tmp_path):
    more = (result("dense", seed, tokens=90, accuracy=1.0, episodes=((1, 0.5, 0.1),)) for seed in (3, 4))
    report.write(write_results(results, *more), tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "3 seeds (5 of dense), 600 held-out prompts each" in text
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert figures["dense 0.2"]["tokens, easy"]["mean"] == np.mean([60, 61, 62, 93, 94])
    assert figures["base"]["tokens, easy"]["mean"] == 102, "the base was measured in all seeds"
    assert "| dense 0.2 | alpha 0.2 | **+20.0 (+20.0 to +20.0)** | " in text, "alpha has only the first three"
    compared = text.partition("**Compared with the base**")[2]
    assert " | +10.0 (-7.0 to +27.0) | " in compared.partition("| dense 0.2 |")[2].splitlines()[0]


def test_checks_where_they_pay_are_the_difference_of_two_shares_seed_by_seed():
    def checks(after_wrong, after_right):
        measured = measures(40, 0.5, after_right)
        return {**measured, "second episodes after a wrong first, hard": after_wrong}

    figures = arms.Arm("dense", "l2t", 0.2, {0: checks(0.5, 0.1), 3: checks(0.3, 0.3)}).figures
    assert figures["second episodes, wrong minus right first, hard"].mean == pytest.approx(0.2)
    assert figures["second episodes, wrong minus right first, hard"].low == -1, "clipped to what a difference can be"
    assert figures["second episodes, wrong minus right first, easy"] is None, "no easy first pass was wrong"


def test_only_a_recipe_that_learns_to_decide_may_have_fewer_steps(results, tmp_path):
    deciding = {"steps": 16, "deciding": {"questions": 6000, "price": 0.01}}
    paid = ((1, 0.5, 0.1),)
    for seed in range(3):
        write_results(results, result("decides", seed, tokens=45, accuracy=0.6, episodes=paid, **deciding))
    report.write(results, tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "decides has 16 steps, and then it learns to decide on 6,000 questions." in text
    for seed in range(3):
        write_results(results, result("fewer", seed, tokens=45, accuracy=0.6, steps=16))
    with pytest.raises(StageError, match="alpha, seed 0, and fewer, seed 0, differ in steps: 32 and 16"):
        report.write(results, tmp_path / "out")


def test_seeds_that_were_trained_differently_are_rejected(results, tmp_path):
    write_results(results, result("dense", 2, tokens=60, accuracy=0.75, episodes=((1, 0.5, 0.1),), lr=0.5))
    with pytest.raises(StageError, match=r"dense, seed 0, and dense, seed 2, differ in lr: null and 0.5"):
        report.write(results, tmp_path / "out")


def changed(path, **changes):
    """A results file with other fields."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_results_that_do_not_fit_each_other_are_named(results, tmp_path):
    def rejected(match):
        with pytest.raises(StageError, match=match):
            report.write(results, tmp_path / "out")

    original = result("dense", 1, tokens=60, accuracy=0.75, episodes=((1, 0.5, 0.1),))
    path = results / "dense.seed-1.json"
    copy = results / "dense.seed-1.bak.json"
    copy.write_text(path.read_text())
    rejected("seed 1 of dense is there more than once")
    copy.unlink()
    points = original.checkpoints
    changed(path, checkpoints={**points, "base": measures(90, 0.75, 1.0)})
    rejected("dense, seed 1, has other figures of the base than alpha")
    changed(path, checkpoints={"base": points["base"]})
    rejected("dense, seed 1: alpha-0.2 is in only one of alphas and checkpoints")
    changed(path, checkpoints={**points, "alpha-0.2": {**points["alpha-0.2"], "tokens, hard": None}})
    rejected("dense, seed 1: alpha-0.2 has nothing for 'tokens, hard'")
    changed(path, checkpoints=dict(points), difficulties=["easy"])
    rejected("dense, seed 1, has the difficulties")
    changed(path, difficulties=list(PARTS[1:]), seed="two")
    rejected(r"dense\.seed-1\.json: not a result of `laconic-train experiment` \(seed: ")
    write_results(results, original)
    write_results(results, result("dense", 2, tokens=60, accuracy=0.75, episodes=((1, 0.5, 0.1),), max_tokens=64))
    rejected("differ in max_tokens")


def test_a_plain_reward_is_compared_with_no_other(results, tmp_path):
    write_results(results, *(result("other", seed, tokens=45, accuracy=0.5) for seed in range(3)))
    report.write(results, tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| other 0.2 | alpha" not in text
    assert "| dense 0.2 | alpha 0.2 | " in text
    assert "| dense 0.2 | other 0.2 | " in text
    assert "**As alpha rises**" not in text, "no recipe has two alphas"


def test_a_dense_arm_is_compared_with_the_plain_one_of_its_alpha_whatever_their_names(results, tmp_path):
    for path in results.glob("alpha*"):
        path.write_text(path.read_text().replace('"recipe":"alpha"', '"recipe":"short"'))
    report.write(results, tmp_path / "out")
    assert "| dense 0.2 | short 0.2 | " in (tmp_path / "out" / "report.md").read_text()


def test_a_dense_arm_is_compared_with_the_plain_one_of_similar_length_and_the_one_without_its_charge(results, tmp_path):
    for seed in range(3):
        write_results(results, result("gain", seed, tokens=42, accuracy=0.7, episodes=((1, 0.5, 0.0),)))
        changed(results / f"gain.seed-{seed}.json", reward="progress")
        write_results(results, result("long", seed, tokens=62, accuracy=0.7))
        path = results / f"long.seed-{seed}.json"
        path.write_text(path.read_text().replace("alpha-0.2", "alpha-0.1").replace(":0.2", ":0.1"))
    report.write(results, tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    beside = [line.split(" | ")[:2] for line in text.partition("## Side by side")[2].splitlines() if " | " in line]
    pairs = [tuple(cell.strip("| ") for cell in line) for line in beside]
    assert [other for one, other in pairs if one == "dense 0.2"][:3] == ["alpha 0.2", "gain 0.2", "long 0.1"]
    assert next(other for one, other in pairs if one == "gain 0.2") == "alpha 0.2"
