"""Does one short backward for the batch give the scores of one backward per token? On the shipped model."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from training.rewards.compression import effective_weight, scores, token_gradients
from training.rollouts.batch import Rollouts
from training.rollouts.episodes import Splitter

BASE = Path(__file__).parents[3] / "models" / "abacus" / "base"
RANK = 4
CASES = [
    (
        "What is 12 + 35 - 8?",
        "\n12+35-8=39\nso 39\n\ncheck step\n12+35=47\n47-8=39\nmatches 39\n</think>\n\nThe answer",
    ),
    ("Work out 7 + 5.", "\n7+5=12\nso 12\n</think>\n\nThe answer is 12."),
]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(BASE)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float64).eval()


@pytest.fixture(scope="module")
def batch(tokenizer):
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": q}], add_generation_prompt=True, return_dict=False)
        for q, _ in CASES
    ]
    return Rollouts.padded(prompts, [tokenizer.encode(z) for _, z in CASES])


@pytest.fixture(scope="module")
def index(tokenizer, batch):
    return Splitter(tokenizer)(batch.completion_ids_BT, batch.completion_mask_BT).index_BT


def explicit(model, batch, index, damping=1e-5):
    """Autograd per token and episode through the whole model, an explicit Fisher, an explicit inverse."""
    layer = model.get_decoder().layers[-1].mlp.down_proj
    left, _, right = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
    left, right = left[:, :RANK], right[:RANK]
    per_token, where = [], []
    for row in range(len(batch)):
        prompt = batch.prompt_ids_BP[row][batch.prompt_mask_BP[row].bool()]
        answer = batch.completion_ids_BT[row][batch.completion_mask_BT[row].bool()]
        logp = torch.log_softmax(model(torch.cat([prompt, answer])[None]).logits[0], -1)
        for t, token in enumerate(answer):
            (gradient,) = torch.autograd.grad(logp[len(prompt) + t - 1, token], layer.weight, retain_graph=True)
            per_token.append((left.T @ gradient @ right.T).flatten())
            where.append((row, int(index[row, t])))
    tokens = torch.stack(per_token)
    fisher = sum(torch.outer(g, g) for g in tokens) / len(tokens)
    inverse = torch.linalg.inv(fisher + damping * fisher.trace() / RANK**2 * torch.eye(RANK**2, dtype=torch.float64))
    result = torch.zeros(len(batch), int(index.max()) + 1, dtype=torch.float64)
    for row, k in set(where):
        g = sum(gradient for gradient, at in zip(tokens, where, strict=True) if at == (row, k))
        result[row, k] = g @ inverse @ g
    return result


def fast(model, batch, index):
    gradients = token_gradients(model, batch, rank=RANK)
    return scores(gradients.output_BTr, gradients.input_BTr, index, int(index.max()) + 1)


def test_scores_equal_autograd_per_token_with_an_explicit_fisher(model, batch, index):
    torch.testing.assert_close(fast(model, batch, index), explicit(model, batch, index), rtol=1e-5, atol=1e-5)


def test_the_proxy_is_of_the_weight_with_its_adapter(batch, index):
    torch.manual_seed(0)
    network = get_peft_model(
        AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float64),
        LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"),
    ).eval()
    layer = network.get_base_model().model.layers[-1].mlp.down_proj
    apart = effective_weight(layer)
    before = fast(network, batch, index)
    merged = network.merge_and_unload()
    torch.testing.assert_close(merged.model.layers[-1].mlp.down_proj.weight, apart)
    torch.testing.assert_close(before, fast(merged, batch, index), rtol=1e-5, atol=1e-5)


def test_the_score_does_not_depend_on_how_the_proxy_is_parameterised():
    torch.manual_seed(0)
    output, inputs = torch.randn(2, 3, 40, RANK, dtype=torch.float64)
    index = torch.arange(40).div(10, rounding_mode="floor").expand(3, -1)
    mixing = torch.randn(2, RANK, RANK, dtype=torch.float64)
    plain = scores(output, inputs, index, 4, damping=0)
    mixed = scores(output @ mixing[0], inputs @ mixing[1], index, 4, damping=0)
    torch.testing.assert_close(plain, mixed, rtol=1e-6, atol=0)


def test_the_mean_score_of_a_token_is_the_number_of_parameters():
    """E[g^T F^-1 g] = trace(F^-1 F): every token an episode of its own, F over the same tokens."""
    torch.manual_seed(0)
    output, inputs = torch.randn(2, 1, 300, RANK, dtype=torch.float64)
    result = scores(output, inputs, torch.arange(300)[None], 300, damping=0)
    assert result.mean().item() == pytest.approx(RANK**2)


def test_padding_does_not_affect_the_scores():
    torch.manual_seed(0)
    output, inputs = torch.randn(2, 2, 10, RANK, dtype=torch.float64)
    index = torch.tensor([[0] * 5 + [1] * 5, [0] * 4 + [-1] * 6])
    other = output.clone()
    other[1, 4:] = 1e3
    torch.testing.assert_close(scores(output, inputs, index, 2), scores(other, inputs, index, 2))
    assert scores(output, inputs, index, 2)[1, 1] == 0


def test_a_rank_above_the_layer_s_is_rejected(model, batch):
    with pytest.raises(ValueError, match="rank must be between 1 and 256, got 300"):
        token_gradients(model, batch, rank=300)
