"""The report says what the outcomes say, with intervals over seeds."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from training import evaluate, report, stages
from training.config import FamilyStage, PretrainedBase, Recipe
from training.errors import StageError
from training.evaluate import Judged
from training.judge import Outcome

SEEDS = [0, 1, 2]


def outcome(*, correct=True, tokens=10, episodes=1, after_first=0.9):
    return Outcome(correct, tokens, tokens + 8, episodes, True, after_first)


def rows(seed, *, tokens, wrong=0, **how):
    """Nine prompts, three of each difficulty, `wrong` of each answered wrongly; seeds differ by a token."""
    return [
        Judged(f"{d}{i}", "sum", d, (outcome(correct=i >= wrong, tokens=tokens + seed, **how),))
        for d in ("easy", "medium", "hard")
        for i in range(3)
    ]


@pytest.fixture
def recipes(tmp_path):
    """Two rewards whose experiments have been run: the dense one spends 20 tokens more and is right once more."""
    made = []
    for name, reward, tokens, wrong, episodes in (("alpha", "alpha", 40, 1, 1), ("l2t-alpha", "l2t", 60, 0, 2)):
        recipe = Recipe(
            name=name,
            description="d",
            run_dir=tmp_path / "experiments" / name,
            base=PretrainedBase(model="models/abacus/base"),
            family=FamilyStage(reward=reward, alphas=(0.2,)),
        )
        made.append(recipe)
        for seed in SEEDS:
            run = recipe.with_seed(seed)
            for directory, checkpoint, spent in (
                (run.run_dir / "evaluate", "alpha-0.2", tokens),
                (stages.base_outcomes(run), "base", 100),
            ):
                directory.mkdir(parents=True, exist_ok=True)
                for greedy in (False, True):
                    path = stages.outcomes_path(directory, checkpoint, greedy=greedy)
                    evaluate.save(rows(seed, tokens=spent, wrong=wrong, episodes=episodes), path)
            family = run.run_dir / "family" / "alpha-0.2"
            family.mkdir(parents=True)
            note = {"step": 1, "episode": [1, 2], "gain": [0.5, 0.0], "compression": [0.1, 1.9]}
            (family / "episodes.jsonl").write_text((json.dumps(note) + "\n") * 2 + '{"step": 2, "epi')
    return made


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=8))
def test_the_interval_is_student_s(values):
    found = report.over_seeds(values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9)
    if np.std(values) > 1e-6:
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert (found.low, found.high) == pytest.approx((low, high))


def test_one_seed_has_no_interval(recipes, tmp_path):
    with pytest.raises(ValueError, match="at least two"):
        report.over_seeds([1.0])
    with pytest.raises(StageError, match="--seed"):
        report.write(recipes, [0], tmp_path / "out")


def test_who_goes_on_is_told_apart_by_what_the_first_episode_was_worth():
    kinds = [(0.9, 2), (0.9, 1), (0.9, 1), (0.9, 1), (0.1, 2), (0.1, 2), (0.1, 1), (None, 2)]
    found = [Judged("p", "sum", "easy", tuple(outcome(after_first=a, episodes=e) for a, e in kinds))]
    assert report.second_episodes(found, first_right=True) == 0.25
    assert report.second_episodes(found, first_right=False) == pytest.approx(2 / 3)


def test_where_no_first_episode_was_wrong_there_is_no_figure(recipes, tmp_path):
    report.write(recipes, SEEDS, tmp_path / "out")
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert figures["alpha 0.2"]["second episodes after a wrong first, hard"] is None
    assert figures["l2t-alpha 0.2"]["second episodes after a right first, hard"]["mean"] == 1


def test_figures_and_words_say_what_the_outcomes_say(recipes, tmp_path):
    report.write(recipes, SEEDS, tmp_path / "out")
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert figures["base"]["tokens, overall"]["mean"] == 101
    assert figures["alpha 0.2"]["tokens, easy"]["mean"] == 41
    assert figures["alpha 0.2"]["accuracy, overall"] == {"mean": pytest.approx(2 / 3)} | dict.fromkeys(
        ("low", "high"), pytest.approx(2 / 3)
    )
    text = (tmp_path / "out" / "report.md").read_text()
    assert "**l2t-alpha 0.2** against alpha 0.2: +20.0 tokens (+20.0 to +20.0; a difference)" in text
    assert "+33.3 points of accuracy (+33.3 to +33.3; a difference)" in text
    assert "| 41 %" in text.replace("41%", "41 %")


def test_every_picture_that_the_page_shows_is_there(recipes, tmp_path):
    report.write(recipes, SEEDS, tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    shown = {part.partition(")")[0] for part in text.split("](")[1:]}
    assert shown == {path.name for path in (tmp_path / "out").glob("*.png")}
    assert len(shown) == 4
    report.write(recipes[:1], SEEDS, tmp_path / "plain")
    assert "](gain" not in (tmp_path / "plain" / "report.md").read_text(), "no dense reward, no pictures of it"


def test_a_step_that_was_done_twice_or_cut_short_counts_once(recipes):
    paths = report._trainings(recipes[1], SEEDS)
    assert report._episodes(paths) == [(1, 0.5, 0.1), (2, 0.0, 1.9)] * 3


def test_a_missing_experiment_is_named(recipes, tmp_path):
    missing = recipes[0].model_copy(update={"run_dir": tmp_path / "experiments" / "none"})
    with pytest.raises(StageError, match=r"none.*is missing; run the experiment first"):
        report.write([missing], SEEDS, tmp_path / "out")


def test_two_recipes_of_one_name_are_refused(recipes, tmp_path):
    with pytest.raises(StageError, match="two recipes are called alpha"):
        report.write([recipes[0], recipes[0]], SEEDS, tmp_path / "out")


def test_what_a_recipe_is_called_does_not_decide_what_it_is_compared_with(recipes, tmp_path):
    renamed = []
    for recipe, name in zip(recipes, ("short", "paid"), strict=True):
        recipe.run_dir.rename(recipe.run_dir.with_name(name))
        renamed.append(recipe.model_copy(update={"name": name, "run_dir": recipe.run_dir.with_name(name)}))
    report.write(renamed, SEEDS, tmp_path / "out")
    assert "**paid 0.2** against short 0.2" in (tmp_path / "out" / "report.md").read_text()
