"""A run finds its base, and says what is wrong with it."""

import huggingface_hub
import pytest

from training import stages
from training.config import PretrainedBase
from training.errors import StageError
from training.job import checkpoints


def test_a_base_that_is_nowhere_is_named_before_anything_is_computed(on_shipped, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    missing = on_shipped.model_copy(update={"base": PretrainedBase(model="nobody/nothing")})
    with pytest.raises(StageError, match=r"base\.model: nobody/nothing is no directory here") as caught:
        stages.family(missing)
    assert "\n" not in str(caught.value)
    with pytest.raises(StageError, match=r"no config of nobody/nothing is at hand.*base\.architecture"):
        checkpoints.architecture(missing)


def test_a_directory_that_holds_no_model_is_named(on_shipped, tmp_path):
    (tmp_path / "empty").mkdir()
    empty = on_shipped.model_copy(update={"base": PretrainedBase(model=str(tmp_path / "empty"))})
    with pytest.raises(StageError, match=r"empty: no tokenizer"):
        stages.family(empty)


def test_the_base_s_sizes_come_from_its_own_config_where_the_recipe_is_silent(on_shipped):
    found = checkpoints.architecture(on_shipped)
    assert (found.hidden_size, found.num_hidden_layers, found.tie_word_embeddings) == (256, 4, True)
