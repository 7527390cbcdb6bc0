"""A model and an adapter give the base that was trained, the same bytes each time, or an error that names them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from tests.training.coldstart.test_tune import STAGE, TRACES
from training.coldstart import marks, merge, tune
from training.errors import StageError
from training.job import checkpoints


@pytest.fixture(scope="module")
def learned(stranger: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[PeftModel, Path]:
    """A tuned model, and its adapter's directory."""
    work = tmp_path_factory.mktemp("tuned")
    model, tokenizer = checkpoints.load_model(stranger), checkpoints.load_tokenizer(stranger)
    ids = marks.add_marks(tokenizer)
    marks.make_room(model, tokenizer, ids)
    trained = tune.tune(model, tokenizer, TRACES, STAGE, marks=ids, seed=0, work=work / "work")
    assert isinstance(trained, PeftModel)
    merge.save_adapter(trained, work / "adapter", torch.float32)
    return trained, work / "adapter"


def test_the_base_is_the_tuned_model(stranger: Path, learned: tuple[PeftModel, Path], tmp_path: Path) -> None:
    trained, adapter = learned
    merge.write_base(stranger, adapter, tmp_path)
    base = checkpoints.load_model(tmp_path).state_dict()
    expected = {
        name.removeprefix("base_model.model."): weight
        for name, weight in trained.merge_and_unload().state_dict().items()
    }
    assert base.keys() == expected.keys()
    untrained = checkpoints.load_model(stranger).state_dict()
    for name, weight in base.items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-5, atol=1e-6)
    same = {name for name, weight in untrained.items() if torch.equal(base[name], weight)}
    assert not same & {"lm_head.weight", "model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight"}


def test_the_base_has_the_same_bytes_with_any_number_of_threads(
    stranger: Path, learned: tuple[PeftModel, Path], tmp_path: Path
) -> None:
    _, adapter = learned
    before, files = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        merge.write_base(stranger, adapter, tmp_path / str(threads))
        files.append((tmp_path / str(threads) / "model.safetensors").read_bytes())
    torch.set_num_threads(before)
    assert files[0] == files[1]


def test_an_adapter_that_does_not_fit_is_named(stranger: Path, learned: tuple[PeftModel, Path], tmp_path: Path) -> None:
    _, adapter = learned
    weights = load_file(adapter / merge.WEIGHTS)
    (tmp_path / merge.CONFIG).write_text((adapter / merge.CONFIG).read_text())

    def refused(change: dict[str, torch.Tensor]) -> str:
        save_file(change, tmp_path / merge.WEIGHTS)
        with pytest.raises(StageError, match="cannot be added to the model in") as error:
            merge.write_base(stranger, tmp_path, tmp_path / "base")
        assert str(tmp_path) in str(error.value)
        return str(error.value)

    left = next(name for name in weights if name.endswith("lora_B.weight"))
    refused({name: weight for name, weight in weights.items() if name != left.replace("lora_B", "lora_A")})
    refused(weights | {left: weights[left][:-1].clone()})
    refused({name.replace("layers.0", "layers.9"): weight for name, weight in weights.items()})
    assert "magnitude" in refused(weights | {left.replace("lora_B", "lora_magnitude"): torch.ones(2)})
    (tmp_path / merge.CONFIG).write_text("{}")
    refused(weights)
