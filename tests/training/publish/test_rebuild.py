"""A family without its base's weights gets them back from the public model, checked against the manifest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from models import family as families
from models.family import Checkpoint, Family, FamilyError
from models.files import hash_files, write_json
from tests.training.coldstart.conftest import finished, stranger, unmarked
from training.config import Recipe
from training.errors import StageError
from training.publish import provenance, rebuild
from training.publish.assemble import COLD_START, weights_of

__all__ = ["finished", "stranger", "unmarked"]  # fixtures
SHIPPED = Path(families.__file__).parent / "abacus"
FILES = ["base/model.safetensors", "base/tokenizer.json"]


@pytest.fixture
def passed_on(finished: Recipe, stranger: Path, tmp_path: Path) -> Path:
    """A family with a cold-started base, as it is passed on: without that base's weights and tokenizer."""
    directory = tmp_path / "family"
    shutil.copytree(finished.run_dir / "base" / "model", directory / "base")
    shutil.copytree(finished.run_dir / "base" / "adapter", directory / COLD_START)
    return published(directory, stranger)


def published(directory: Path, source: Path) -> Path:
    shutil.copy(SHIPPED / "profile.json", directory)
    frontier = families.load(SHIPPED, verify=False).checkpoints[0].frontier
    base = Checkpoint(name="base", kind="base", path="base", files=hash_files(directory, "base"), frontier=frontier)
    manifest = Family(
        name="stranger",
        description="d",
        base="base",
        reference="base",
        context_tokens=256,
        profile="profile.json",
        files=hash_files(directory, "profile.json") | hash_files(directory, COLD_START),
        checkpoints=(base,),
    )
    families.save(manifest, directory)
    made = vars(provenance.load(SHIPPED)) | {"pretrained": str(source), "weights": weights_of(source)}
    (directory / "report").mkdir()
    provenance.save(provenance.Provenance(**made), directory)
    families.load(directory)
    for file in FILES:
        (directory / file).unlink()
    return directory


def test_a_family_without_its_base_s_weights_says_how_to_get_them(passed_on: Path) -> None:
    with pytest.raises(FamilyError, match=f"is missing; .*`laconic-train rebuild {passed_on}` makes it"):
        families.load(passed_on)


def test_the_base_is_made_of_the_public_model(passed_on: Path) -> None:
    assert rebuild.rebuild(passed_on, None, None) == FILES
    families.load(passed_on)
    assert rebuild.rebuild(passed_on, "nowhere", None) == [], "nothing is missing"
    assert not list(passed_on.glob(".rebuilding-*"))


def test_a_base_without_a_cold_start_is_the_public_model(stranger: Path, tmp_path: Path) -> None:
    directory = tmp_path / "family"
    shutil.copytree(stranger, directory / "base")
    published(directory, stranger)
    assert rebuild.rebuild(directory, None, None) == FILES
    families.load(directory)
    assert (stranger / "model.safetensors").exists()


def test_another_model_is_refused_before_anything_is_made(passed_on: Path, stranger: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(stranger, other)
    with (other / "model.safetensors").open("ab") as file:
        file.write(b" ")
    with pytest.raises(StageError, match=r"--base: model.safetensors of .*other has another SHA-256; the"):
        rebuild.rebuild(passed_on, str(other), None)
    (other / "model.safetensors").unlink()
    with pytest.raises(StageError, match=r"--base: model.safetensors of .*other is missing"):
        rebuild.rebuild(passed_on, str(other), None)
    assert not (passed_on / FILES[0]).exists()


def test_a_base_that_comes_out_otherwise_is_not_kept(passed_on: Path) -> None:
    config = passed_on / COLD_START / "adapter_config.json"
    write_json(config, json.loads(config.read_text()) | {"lora_alpha": 1})
    with pytest.raises(StageError, match=r"base/model.safetensors: did not come out with the SHA-256"):
        rebuild.rebuild(passed_on, None, None)
    assert not (passed_on / FILES[0]).exists()


def test_a_base_that_was_trained_from_scratch_cannot_be_made_again(tmp_path: Path) -> None:
    directory = tmp_path / "abacus"
    shutil.copytree(SHIPPED, directory)
    assert rebuild.rebuild(directory, None, None) == []
    (directory / FILES[0]).unlink()
    with pytest.raises(StageError, match=r"base/model.safetensors is missing, and this base was trained from scratch"):
        rebuild.rebuild(directory, None, None)
