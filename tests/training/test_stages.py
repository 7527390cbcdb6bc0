import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file

from tests.training.conftest import TINY
from training import evaluate as measuring
from training import stages
from training.config import Data, EvaluateStage, FamilyStage, PretrainedBase, Recipe
from training.errors import StageError


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    return Recipe(name="mine", description="d", run_dir=tmp_path / "run", publish_to=tmp_path / "published")


def with_gate(recipe: Recipe, failures: list[str]) -> None:
    (recipe.run_dir / "base" / "model").mkdir(parents=True)
    (recipe.run_dir / "base" / "gate.json").write_text(json.dumps({"failures": failures}))


def test_no_family_is_made_from_a_base_that_the_gate_has_not_seen_or_found_unfit(recipe):
    with pytest.raises(StageError, match=r"gate.json is missing; run the base stage first"):
        stages.family(recipe)
    with_gate(recipe, ["easy accuracy at temperature 1 is 0.500, not in [0.97, 1]"])
    with pytest.raises(StageError, match=r"not fit for a family: easy accuracy .* is 0\.500.*remove .*run/base"):
        stages.family(recipe)


def test_another_temperature_needs_no_other_training(recipe):
    """What is folded into the weights (decisions/0006) is put on top of the trained base, which stays."""
    recipe = recipe.model_copy(
        update={
            "base": TINY.model_copy(update={"steps": 2, "gate_prompts": 1, "gate_stops": False, "temperature": 0.5}),
            "family": recipe.family.model_copy(update={"max_tokens": 4}),
        }
    )
    directory = recipe.run_dir / "base"
    stages.base(recipe)
    trained, warm = (load_file(directory / name / "model.safetensors") for name in ("trained", "model"))
    torch.testing.assert_close(warm["model.norm.weight"].float(), trained["model.norm.weight"] * 2, rtol=1e-2, atol=0)

    recipe = recipe.model_copy(update={"base": recipe.base.model_copy(update={"temperature": 0.8})})
    with pytest.raises(
        StageError, match=r"model was made with another temperature \(0.5, now 0.8\): remove .*model to"
    ):
        stages.base(recipe)
    shutil.rmtree(directory / "model")
    (directory / "gate.json").unlink()
    shutil.rmtree(directory / "work")
    stages.base(recipe)
    assert not (directory / "work").exists()
    cooler = load_file(directory / "model" / "model.safetensors")
    torch.testing.assert_close(
        cooler["model.norm.weight"].float() * 0.8, trained["model.norm.weight"], rtol=1e-2, atol=0
    )


def test_the_gate_may_be_told_only_to_record(recipe):
    with_gate(recipe, ["too good"])
    stages._require_fit(recipe.model_copy(update={"base": recipe.base.model_copy(update={"gate_stops": False})}))


@pytest.mark.parametrize("there", ["notes.txt", "family/weights"])
def test_publishing_replaces_nothing_but_a_family(recipe, there):
    file = recipe.publish_to / there
    file.parent.mkdir(parents=True)
    file.write_text("my own")
    with pytest.raises(StageError, match=r"publish_to: .*published is no family's directory"):
        stages.check_target(recipe)
    (recipe.publish_to / "family.json").write_text("{}")
    stages.check_target(recipe)


def test_publishing_names_what_is_missing(recipe):
    with_gate(recipe, [])
    with pytest.raises(StageError, match=r"profile.json is missing; run the earlier stages first: .* run mine.yaml"):
        stages.publish_family(recipe, Path("mine.yaml"))


def test_a_directory_appears_whole_or_stays_what_it_was(tmp_path):
    target = tmp_path / "adapter"
    with stages._whole(target) as unfinished:
        (unfinished / "weights").write_text("first")
        assert not target.exists()

    def cut_short():
        with stages._whole(target) as unfinished:
            (unfinished / "weights").write_text("second")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_short()
    assert (target / "weights").read_text() == "first"
    with stages._whole(target) as unfinished:
        (unfinished / "other").write_text("third")
    assert [path.name for path in target.iterdir()] == ["other"]
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.fixture
def on_shipped(tmp_path):
    """An experiment's recipe on the shipped base."""
    return Recipe(
        name="mine",
        description="d",
        run_dir=tmp_path / "experiments" / "mine",
        base=PretrainedBase(model="models/abacus/base", context_tokens=1024),
        family=FamilyStage(steps=1, prompts_per_step=1, rollouts=2, max_tokens=40, alphas=(0.1,), reward="l2t"),
        evaluate=EvaluateStage(prompts=3, samples=1),
    )


def test_an_experiment_leaves_outcomes_of_both_kinds_and_shares_its_base(on_shipped):
    run = on_shipped.with_seed(5)
    stages.experiment(run)
    for name, directory in (("base", stages.base_outcomes(run)), ("alpha-0.1", run.run_dir / "evaluate")):
        sampled, greedy = (measuring.load(stages.outcomes_path(directory, name, greedy=g)) for g in (False, True))
        assert len(sampled) == len(greedy) == 3
        assert all(0 <= o.after_first <= 1 for row in sampled for o in row.outcomes if o.after_first is not None)
        assert any(o.after_first is not None for row in sampled for o in row.outcomes)
    other = on_shipped.model_copy(update={"name": "other", "run_dir": on_shipped.run_dir.with_name("other")})
    assert stages.base_outcomes(other.with_seed(5)) == stages.base_outcomes(run)


def test_an_experiment_needs_a_base_that_exists(recipe):
    with pytest.raises(StageError, match=r"base\.model"):
        stages.experiment(recipe)


def test_a_base_that_is_nowhere_is_named_before_anything_is_computed(on_shipped, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    missing = on_shipped.model_copy(update={"base": PretrainedBase(model="nobody/nothing")})
    with pytest.raises(StageError, match=r"base\.model: nobody/nothing is no directory here") as caught:
        stages.family(missing)
    assert "\n" not in str(caught.value)
    with pytest.raises(StageError, match=r"no config of nobody/nothing is at hand.*base\.architecture"):
        stages.architecture(missing)


def test_a_directory_that_holds_no_model_is_named(on_shipped, tmp_path):
    (tmp_path / "empty").mkdir()
    empty = on_shipped.model_copy(update={"base": PretrainedBase(model=str(tmp_path / "empty"))})
    with pytest.raises(StageError, match=r"empty: no tokenizer"):
        stages.family(empty)


def test_a_tokenizer_without_markers_is_refused_before_anything_is_computed(on_shipped, spoken, model, tmp_path):
    plain = tmp_path / "plain"
    model.save_pretrained(plain)
    spoken.save_pretrained(plain)
    for file in plain.glob("*.json"):
        file.write_text(file.read_text().replace("</think>", "</thing>"))
    with pytest.raises(StageError, match=r"plain: its tokenizer has no token </think>"):
        stages.family(on_shipped.model_copy(update={"base": PretrainedBase(model=str(plain))}))


def test_data_that_cannot_be_used_is_named_before_anything_is_computed(on_shipped, tmp_path):
    empty = tmp_path / "mine.jsonl"
    empty.write_text("")
    with pytest.raises(StageError, match=r"mine\.jsonl has no questions"):
        stages.family(on_shipped.model_copy(update={"data": Data(task="jsonl", path=empty)}))


def test_the_base_s_sizes_come_from_its_own_config_where_the_recipe_is_silent(on_shipped):
    found = stages.architecture(on_shipped)
    assert (found.hidden_size, found.num_hidden_layers, found.tie_word_embeddings) == (256, 4, True)


def test_without_a_place_to_publish_nothing_is_published(on_shipped):
    with pytest.raises(StageError, match="publish_to: the recipe does not say"):
        stages.check_target(on_shipped)
