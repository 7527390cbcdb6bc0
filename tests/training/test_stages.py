import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.conftest import TINY
from training import stages
from training.config import Recipe
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
