"""An experiment trains, measures, and leaves one small file that says what it came to."""

import json

import pytest

from training.config import BaseStage, Data, PretrainedBase
from training.errors import StageError
from training.experiments import experiment
from training.measure import outcomes
from training.tasks.outcome import Graded, Outcome, load


def row(difficulty, *outcomes):
    return Graded(difficulty, "sum", difficulty, outcomes)


def outcome(*, correct=True, tokens=10, episodes=1, after_first=0.9):
    return Outcome(correct, tokens, tokens + 8, episodes, True, after_first)


def test_an_experiment_leaves_its_figures_and_is_not_run_again(on_shipped, tmp_path):
    run, results = on_shipped.with_seed(5), tmp_path / "results"
    experiment.run(run, results)
    found = experiment.load(results / "mine.seed-5.json")
    assert (found.recipe, found.reward, found.seed, found.alphas) == ("mine", "l2t", 5, {"alpha-0.1": 0.1})
    for name, directory in (("base", experiment.base_outcomes(run)), ("alpha-0.1", run.run_dir / "evaluate")):
        sampled, greedy = (load(outcomes.path_in(directory, name, greedy=g)) for g in (False, True))
        assert len(sampled) == len(greedy) == 3
        assert any(o.after_first is not None for row in sampled for o in row.outcomes)
        assert found.checkpoints[name] == experiment.measures(sampled, greedy)
    assert found.episodes, "the dense reward's episodes are kept for the pictures"

    other = on_shipped.model_copy(update={"name": "other", "run_dir": on_shipped.run_dir.with_name("other")})
    assert experiment.base_outcomes(other.with_seed(5)) == experiment.base_outcomes(run), "the base is measured once"

    on_shipped.run_dir.rename(tmp_path / "gone")
    experiment.run(run, results)
    assert not on_shipped.run_dir.exists(), "what came of it is known, though the run is gone"
    longer = run.model_copy(update={"family": run.family.model_copy(update={"steps": 2})})
    with pytest.raises(StageError, match=r"mine.seed-5.json is of an experiment with another steps \(1, now 2\)"):
        experiment.run(longer, results)


def test_what_cannot_be_run_is_named_before_the_first_experiment_is(on_shipped, tmp_path):
    def named(**changes):
        return on_shipped.model_copy(
            update={"name": "other", "run_dir": on_shipped.run_dir.with_name("other"), **changes}
        )

    def refuses(match, *recipes):
        with pytest.raises(StageError, match=match):
            experiment.check([recipe.with_seed(0) for recipe in recipes], tmp_path / "results")

    experiment.check([on_shipped.with_seed(0), on_shipped.with_seed(1), named().with_seed(0)], tmp_path / "results")
    refuses(r"other: an experiment compares rewards on one base", on_shipped, named(base=BaseStage()))
    refuses(r"nowhere is no directory", on_shipped, named(base=PretrainedBase(model="./nowhere")))
    refuses(r"two recipes of that name would write .*mine\.seed-0\.json", on_shipped, on_shipped)
    measured = on_shipped.evaluate
    refuses(r"other: evaluate\.temperature", named(evaluate=measured.model_copy(update={"temperature": 0.3})))
    refuses(
        r"other: experiments beside each other .* another prompts \(3, now 4\)",
        on_shipped,
        named(evaluate=measured.model_copy(update={"prompts": 4})),
    )
    empty = tmp_path / "mine.jsonl"
    refuses(r"mine\.jsonl is missing", on_shipped, named(data=Data(task="jsonl", path=empty)))


def test_figures_are_means_over_all_and_over_each_difficulty():
    sampled = [row("easy", outcome(tokens=10), outcome(tokens=20, correct=False)), row("hard", outcome(tokens=45))]
    found = experiment.measures(sampled, [row("easy", outcome(tokens=8)), row("hard", outcome(correct=False))])
    assert found["tokens, easy"] == 15
    assert found["tokens, overall"] == 30
    assert found["accuracy, easy"] == 0.5
    assert found["greedy accuracy, hard"] == 0
    assert found["greedy tokens, easy"] == 8
    assert found["second episodes after a wrong first, hard"] is None


def test_who_goes_on_is_told_apart_by_what_the_first_episode_was_worth():
    kinds = [(0.9, 2), (0.9, 1), (0.9, 1), (0.9, 1), (0.1, 2), (0.1, 2), (0.1, 1), (None, 2)]
    found = [row("easy", *(outcome(after_first=a, episodes=e) for a, e in kinds))]
    assert experiment.second_episodes(found, first_right=True) == 0.25
    assert experiment.second_episodes(found, first_right=False) == pytest.approx(2 / 3)


def test_of_many_episodes_some_of_every_time_are_kept(tmp_path):
    notes = [{"step": i, "episode": [1], "gain": [i / 10_000], "compression": [0.0]} for i in range(1, 5001)]
    (tmp_path / "episodes.jsonl").write_text("".join(json.dumps(note) + "\n" for note in notes))
    found = [round(gain * 10_000) for _, gain, _ in experiment.noted([tmp_path])]
    assert experiment.NOTED * 0.8 < len(found) <= experiment.NOTED
    assert found == sorted(found)
    assert found[-1] > 4980


def test_what_is_no_result_is_named(tmp_path):
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(StageError, match=r"notes.json: not a result of `laconic-train experiment`"):
        experiment.load(tmp_path / "notes.json")
