import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from trl import GRPOTrainer

from tests.training.conftest import TINY
from training.base import train
from training.rollouts.merge import merged, plain_weights
from training.trainer import CheckpointTrainer


@pytest.fixture
def adapted(tokenizer):
    """A model with an adapter that is far from zero, so that merging it in and subtracting it again leaves rounding."""
    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(train.new_model(TINY, tokenizer), lora).eval()


def weights(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(left, right) -> bool:
    return all(torch.equal(value, right[name]) for name, value in left.items())


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(torch.tensor([[5, 6, 7, 8]])).logits


def test_subtracting_the_adapter_alone_would_leave_rounding_errors(adapted):
    before = weights(adapted)
    adapted.merge_adapter()
    adapted.unmerge_adapter()
    assert not same(weights(adapted), before)


def test_the_adapter_is_merged_inside_and_the_base_restored_to_the_bit_afterwards(adapted):
    before, expected = weights(adapted), logits(adapted)
    with merged(adapted):
        assert not same(weights(adapted), before)
        torch.testing.assert_close(logits(adapted), expected, atol=1e-4, rtol=1e-4)
    assert same(weights(adapted), before)
    assert torch.equal(logits(adapted), expected)


def test_the_base_is_restored_after_an_error_too(adapted):
    before = weights(adapted)
    with pytest.raises(KeyboardInterrupt), merged(adapted):
        raise KeyboardInterrupt
    assert same(weights(adapted), before)


def test_a_model_without_an_adapter_is_left_alone(model):
    before = weights(model)
    with merged(model):
        assert same(weights(model), before)
    assert same(weights(model), before)


def test_the_base_is_restored_to_the_bit_after_its_weights_went_to_vllm(adapted, monkeypatch):
    before = weights(adapted)

    def generate(trainer, prompt_ids, *_args, **_more):
        """As TRL hands the weights over: merged, then subtracted."""
        adapted.merge_adapter()
        adapted.unmerge_adapter()
        return prompt_ids, None

    class Accelerator:
        unwrap_model = staticmethod(lambda model: model)

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", generate)
    trainer = object.__new__(CheckpointTrainer)
    trainer.accelerator, trainer.model, trainer.use_vllm, trainer._engine = Accelerator, adapted, True, None
    assert trainer._generate_single_turn([[1, 2]], None, None, 1) == ([[1, 2]], None)
    assert same(weights(adapted), before)


def with_output_embeddings(weights):
    """The output embeddings are tied to the others, and files leave them out; vLLM would keep its old ones."""
    return weights | {"lm_head.weight": weights["model.embed_tokens.weight"]}


def test_plain_weights_are_those_of_a_model_s_own_files_with_the_adapter_merged(adapted, tmp_path):
    before = {name: weight.clone() for name, weight in plain_weights(adapted).items()}
    with merged(adapted):
        handed_over = {name: weight.clone() for name, weight in plain_weights(adapted).items()}
    adapted.merge_and_unload().save_pretrained(tmp_path)
    own = with_output_embeddings(load_file(tmp_path / "model.safetensors"))
    assert handed_over.keys() == own.keys()
    for name, weight in own.items():
        torch.testing.assert_close(handed_over[name], weight)
    assert not torch.equal(before["model.layers.1.mlp.up_proj.weight"], own["model.layers.1.mlp.up_proj.weight"])


def test_plain_weights_of_a_model_without_an_adapter_are_its_own(model, tmp_path):
    model.save_pretrained(tmp_path)
    own = with_output_embeddings(load_file(tmp_path / "model.safetensors"))
    assert plain_weights(model).keys() == own.keys()
    assert all(torch.equal(weight, own[name]) for name, weight in plain_weights(model).items())
