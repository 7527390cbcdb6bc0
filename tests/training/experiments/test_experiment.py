"""An experiment trains and measures, and writes its results to one small file."""

import json

import pytest

from training.config import Data, DenseReward
from training.errors import StageError
from training.experiments import experiment
from training.measure import outcomes
from training.recipe_base import BaseStage, PretrainedBase
from training.tasks.outcome import Graded, Outcome, load


def row(difficulty, *outcomes):
    return Graded(difficulty, "sum", difficulty, outcomes)


def outcome(*, correct=True, tokens=10, episodes=1, after_first=0.9):
    return Outcome(correct, tokens, tokens + 8, episodes, True, after_first)


def test_an_experiment_writes_its_figures_and_is_not_run_again(on_shipped, tmp_path):
    run, results = on_shipped.with_seed(5), tmp_path / "results"
    experiment.run(run, results)
    saved = experiment.load(results / "mine.seed-5.json")
    assert (saved.recipe, saved.reward, saved.seed, saved.alphas) == ("mine", "l2t", 5, {"alpha-0.1": 0.1})
    for name, directory in (("base", experiment.base_outcomes(run)), ("alpha-0.1", run.run_dir / "evaluate")):
        sampled, greedy = (load(outcomes.path_in(directory, name, greedy=g)) for g in (False, True))
        assert len(sampled) == len(greedy) == 3
        assert any(o.after_first is not None for row in sampled for o in row.outcomes)
        assert saved.checkpoints[name] == experiment.measures(sampled, greedy)
    assert saved.episodes, "the plots need the episodes of the dense reward"

    other = on_shipped.model_copy(update={"name": "other", "run_dir": on_shipped.run_dir.with_name("other")})
    assert experiment.base_outcomes(other.with_seed(5)) == experiment.base_outcomes(run), "the base is measured once"

    on_shipped.run_dir.rename(tmp_path / "gone")
    experiment.run(run, results)
    assert not on_shipped.run_dir.exists(), "the results are enough, although the run is gone"
    longer = run.model_copy(update={"family": run.family.model_copy(update={"steps": 2})})
    with pytest.raises(StageError, match=r"mine.seed-5.json is of another experiment: steps changed from 1 to 2"):
        experiment.run(longer, results)


def test_an_experiment_that_cannot_run_is_named_before_the_first_starts(on_shipped, tmp_path):
    def named(**changes):
        return on_shipped.model_copy(
            update={"name": "other", "run_dir": on_shipped.run_dir.with_name("other"), **changes}
        )

    def rejects(match, *recipes):
        with pytest.raises(StageError, match=match):
            experiment.check([recipe.with_seed(0) for recipe in recipes], tmp_path / "results")

    experiment.check([on_shipped.with_seed(0), on_shipped.with_seed(1), named().with_seed(0)], tmp_path / "results")
    rejects(r"other: an experiment compares rewards on one pretrained base", on_shipped, named(base=BaseStage()))
    rejects(r"nowhere is not a directory", on_shipped, named(base=PretrainedBase(model="./nowhere")))
    rejects(r"two recipes with this name would write .*mine\.seed-0\.json", on_shipped, on_shipped)
    measured = on_shipped.evaluate
    rejects(r"other: evaluate\.temperature", named(evaluate=measured.model_copy(update={"temperature": 0.3})))
    rejects(
        r"other: experiments whose run_dirs share a parent .* they differ in prompts: 3 and 4",
        on_shipped,
        named(evaluate=measured.model_copy(update={"prompts": 4})),
    )
    for name, value in (("answer", "So {}!"), ("split_by", "tags"), ("max_episodes", 3)):
        for reward in ("alpha", "l2t"):
            family = on_shipped.family.model_copy(update={"reward": reward, "dense": DenseReward(**{name: value})})
            rejects(rf"other: family\.dense\.{name} must be .*it is .*, and in mine", on_shipped, named(family=family))
    empty = tmp_path / "mine.jsonl"
    rejects(r"mine\.jsonl is missing", on_shipped, named(data=Data(task="jsonl", path=empty)))


def test_figures_are_means_overall_and_by_difficulty():
    sampled = [row("easy", outcome(tokens=10), outcome(tokens=20, correct=False)), row("hard", outcome(tokens=45))]
    measured = experiment.measures(sampled, [row("easy", outcome(tokens=8)), row("hard", outcome(correct=False))])
    assert measured["tokens, easy"] == 15
    assert measured["tokens, overall"] == 30
    assert measured["accuracy, easy"] == 0.5
    assert measured["greedy accuracy, hard"] == 0
    assert measured["greedy tokens, easy"] == 8
    assert measured["second episodes after a wrong first, hard"] is None


def test_second_episodes_are_counted_by_whether_the_first_was_correct():
    kinds = [(0.9, 2), (0.9, 1), (0.9, 1), (0.9, 1), (0.1, 2), (0.1, 2), (0.1, 1), (None, 2)]
    rows = [row("easy", *(outcome(after_first=a, episodes=e) for a, e in kinds))]
    assert experiment.second_episodes(rows, first_right=True) == 0.25
    assert experiment.second_episodes(rows, first_right=False) == pytest.approx(2 / 3)


def test_episodes_are_sampled_evenly_over_the_training(tmp_path):
    notes = [{"step": i, "episode": [1], "gain": [i / 10_000], "compression": [0.0]} for i in range(1, 5001)]
    (tmp_path / "episodes.jsonl").write_text("".join(json.dumps(note) + "\n" for note in notes))
    steps = [round(gain * 10_000) for _, gain, _ in experiment.sampled_episodes([tmp_path])]
    assert experiment.MAX_EPISODES * 0.8 < len(steps) <= experiment.MAX_EPISODES
    assert steps == sorted(steps)
    assert steps[-1] > 4980


def test_a_file_without_results_is_named(tmp_path):
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(StageError, match=r"notes.json: not a result of `laconic-train experiment`"):
        experiment.load(tmp_path / "notes.json")
