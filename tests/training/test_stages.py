import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.conftest import TINY
from training import stages
from training.config import ProfileStage, Recipe
from training.errors import StageError
from training.job import checkpoints
from training.job.resume import exclusive_lock


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    return Recipe(name="mine", description="d", run_dir=tmp_path / "run", publish_to=tmp_path / "published")


def with_gate(recipe: Recipe, failures: list[str]) -> None:
    (recipe.run_dir / "base" / "model").mkdir(parents=True)
    (recipe.run_dir / "base" / "gate.json").write_text(json.dumps({"failures": failures}))


def test_no_family_is_trained_from_a_base_that_has_not_passed_the_gate(recipe):
    with pytest.raises(StageError, match=r"gate.json is missing: run `laconic-train base` first"):
        stages.family(recipe)
    with_gate(recipe, ["easy accuracy at temperature 1 is 0.500, not in [0.97, 1]"])
    with pytest.raises(StageError, match=r"the base fails the gate: easy accuracy .* is 0\.500.*remove .*run/base"):
        stages.family(recipe)


def test_another_temperature_needs_no_new_training(recipe):
    """The temperature is folded into a copy of the trained base (decisions/0006)."""
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
        StageError, match=r"model: temperature changed from 0.5 to 0.8 since it was made; remove .*model to"
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


def test_the_gate_can_be_set_to_record_only(recipe):
    with_gate(recipe, ["too good"])
    stages._require_fit(recipe.model_copy(update={"base": recipe.base.model_copy(update={"gate_stops": False})}))


def test_publishing_names_what_is_missing(recipe):
    with_gate(recipe, [])
    with pytest.raises(StageError, match=r"base/trained is missing: run the earlier stages first; `laconic-train run`"):
        stages.publish_family(recipe, Path("mine.yaml"))


def test_outdated_artefacts_are_not_published(on_shipped, tmp_path):
    """Publishing fails if checkpoints or outcomes were made from another recipe."""
    recipe = on_shipped.model_copy(
        update={
            "publish_to": tmp_path / "published",
            "profile": ProfileStage(prompts=5, samples=1),
            "family": on_shipped.family.model_copy(update={"reward": "alpha"}),
        }
    )
    stages.family(recipe)
    stages.evaluate(recipe)
    stages.fit_profile(recipe)
    stages.publish_family(recipe, Path("mine.yaml"))
    for field, change in (
        ("evaluate", {"prompts": 6}),
        ("evaluate", {"samples": 2}),
        ("profile", {"samples": 2}),
        ("family", {"steps": 2}),
    ):
        changed = recipe.model_copy(update={field: getattr(recipe, field).model_copy(update=change)})
        with pytest.raises(StageError, match=f": {next(iter(change))} changed from .* since it was made"):
            stages.publish_family(changed, Path("mine.yaml"))
    adapter = checkpoints.trained_path(recipe, "alpha-0.1") / "adapter_config.json"
    adapter.write_text(adapter.read_text() + " ")
    with pytest.raises(StageError, match=r"alpha-0\.1\.jsonl: checkpoint changed from .* since it was made"):
        stages.publish_family(recipe, Path("mine.yaml"))
    with pytest.raises(StageError, match=r"steps changed from .* since it was made"):
        stages.evaluate(recipe.model_copy(update={"family": recipe.family.model_copy(update={"steps": 2})}))


def test_two_commands_do_not_train_in_the_same_directory(on_shipped):
    target = checkpoints.trained_path(on_shipped, "alpha-0.1")
    with (
        exclusive_lock(target.parent),
        pytest.raises(StageError, match=r"alpha-0\.1: another laconic-train is running there"),
    ):
        stages.family(on_shipped)
