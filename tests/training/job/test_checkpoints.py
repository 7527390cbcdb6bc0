"""A run finds its base, and reports what is wrong with it."""

import json
import shutil

import huggingface_hub
import pytest
from transformers import PreTrainedConfig

from tests.training.conftest import TINY
from training import stages
from training.errors import StageError
from training.job import base_files, checkpoints, planning
from training.recipe_base import Architecture, PretrainedBase


def test_a_base_that_cannot_be_found_is_named_before_training(on_shipped, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    missing = on_shipped.model_copy(update={"base": PretrainedBase(model="nobody/nothing")})
    with pytest.raises(StageError, match=r"base\.model: nobody/nothing is not a directory") as caught:
        stages.family(missing)
    assert "\n" not in str(caught.value)
    with pytest.raises(StageError, match=r"the config of nobody/nothing cannot be loaded.*base\.architecture"):
        checkpoints.architecture(missing)


def test_a_directory_without_a_model_is_named(on_shipped, tmp_path):
    (tmp_path / "empty").mkdir()
    empty = on_shipped.model_copy(update={"base": PretrainedBase(model=str(tmp_path / "empty"))})
    with pytest.raises(StageError, match=r"empty: the tokenizer cannot be loaded"):
        stages.family(empty)


def test_the_architecture_comes_from_the_base_s_config_if_the_recipe_has_none(on_shipped):
    own = checkpoints.architecture(on_shipped)
    assert (own.hidden_size, own.num_hidden_layers, own.tie_word_embeddings) == (256, 4, True)


def nested(on_shipped, tmp_path, **text):
    """A recipe on a model whose language model has a part of its config."""
    directory = tmp_path / "sees"
    directory.mkdir()
    config = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", **text}, "vision_config": {}}
    (directory / "config.json").write_text(json.dumps(config))
    return on_shipped.model_copy(update={"base": PretrainedBase(model=str(directory))})


def test_the_sizes_of_a_model_that_also_sees_are_those_of_its_language_model(on_shipped, tmp_path):
    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
    recipe = nested(on_shipped, tmp_path, **sizes)
    assert base_files.architecture(recipe) is None, "the file leaves out what the model's class knows"
    own = checkpoints.architecture(recipe)
    assert (own.model_type, own.hidden_size, own.num_hidden_layers, own.intermediate_size) == ("gemma3_text", 64, 3, 96)


def test_sizes_that_a_nested_config_states_need_no_torch(on_shipped, tmp_path):
    sizes = planning.architecture(TINY).model_dump() | {"model_type": "gemma3_text"}
    recipe = nested(on_shipped, tmp_path, **sizes)
    assert base_files.architecture(recipe) == checkpoints.architecture(recipe) == Architecture(**sizes)


def test_a_config_without_sizes_is_named(on_shipped, tmp_path, monkeypatch):
    recipe = nested(on_shipped, tmp_path)
    monkeypatch.setattr(checkpoints, "config", lambda *_: PreTrainedConfig(model_type="odd"))
    with pytest.raises(StageError, match=r"base\.model: the plan does not know this architecture: model_type of"):
        checkpoints.architecture(recipe)


def test_positions_of_a_nested_config_limit_the_context(on_shipped, tmp_path):
    recipe = nested(on_shipped, tmp_path, max_position_embeddings=256)
    directory = tmp_path / "sees"
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors"):
        shutil.copy(f"models/abacus/base/{name}", directory)
    with pytest.raises(StageError, match=r"base\.context_tokens: 32768 is more than the 256 positions"):
        base_files.check(directory, recipe.base)
