"""A run finds its base, and reports what is wrong with it."""

import huggingface_hub
import pytest

from training import stages
from training.errors import StageError
from training.job import checkpoints
from training.recipe_base import PretrainedBase


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
