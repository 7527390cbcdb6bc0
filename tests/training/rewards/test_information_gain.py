"""Does the packed pass give the same values as one pass per prefix? On the shipped model."""

from functools import cache
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from training.rewards.information_gain import Probe, answer_probabilities, information_gains
from training.rollouts.batch import Rollouts
from training.rollouts.episodes import Splitter
from training.rollouts.params import SamplingParams
from training.rollouts.sample import sample

BASE = Path(__file__).parents[3] / "models" / "abacus" / "base"
STOP = "\n</think>\n\nThe answer is "
CASES = [
    ("What is 12 + 35 - 8?", "\n12+35-8=39\nso 39\n\ncheck step\n12+35=47\n47-8=39\nmatches 39\n</think>", "39."),
    ("Work out 7 + 5.", "\n7+5=13\nso 13\n\ncheck reverse\n5+7=12\ndiffers 12\n\ncheck step\n7+5=12\n</think>", "12."),
    ("What is 100 - 1?", "\n100-1=99\nso 99\n</think>", "99."),
    ("What is 2 + 2?", "</think>", "4."),
    ("How much is 3 times 14?", "\n3*14=42\n\nso 42 and on", "42."),
]


@cache
def tokenizer():
    return AutoTokenizer.from_pretrained(BASE)


@cache
def model(dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=dtype).eval()


def padded(rows, side):
    width = max(map(len, rows))
    fill = [[0] * (width - len(row)) for row in rows]
    ids = [f + r if side == "left" else r + f for f, r in zip(fill, rows, strict=True)]
    ones = [[1] * len(r) for r in rows]
    mask = [f + o if side == "left" else o + f for f, o in zip(fill, ones, strict=True)]
    return torch.tensor(ids), torch.tensor(mask)


def some_probes():
    """In every other probe the stop's last character belongs to the answer's first token."""
    texts = [(STOP, answer) if i % 2 else (STOP[:-1], f" {answer}") for i, (*_, answer) in enumerate(CASES)]
    return [Probe(tuple(tokenizer().encode(stop)), tuple(tokenizer().encode(answer))) for stop, answer in texts]


def inputs(side):
    prompts = [
        tokenizer().apply_chat_template([{"role": "user", "content": q}], add_generation_prompt=True, return_dict=False)
        for q, _, _ in CASES
    ]
    thoughts = [tokenizer().encode(z) for _, z, _ in CASES]
    ids, mask = padded(thoughts, "right")
    episodes = Splitter(tokenizer())(ids, mask)
    probes = some_probes()
    return (Rollouts(*padded(prompts, side), ids, mask), episodes.ends_BK, probes), prompts, thoughts


@torch.no_grad()
def one_by_one(network, reading):
    """No packing, no padding, no mask: a forward pass per prefix."""
    (_, ends, probes), prompts, thoughts = inputs("left")
    rows = []
    for prompt, thought, row, probe in zip(prompts, thoughts, ends.tolist(), probes, strict=True):
        values = []
        for end in [0, *row]:
            before = [*prompt, *thought[:end], *probe.stop]
            logp = torch.log_softmax(network(torch.tensor([[*before, *probe.answer]])).logits[0].float(), -1)
            tokens = [logp[len(before) - 1 + i, token] for i, token in enumerate(probe.answer)]
            values.append(torch.stack(tokens).sum() / (len(tokens) if reading == "per_token" else 1))
        rows.append(torch.stack(values).exp())
    return torch.stack(rows)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("reading", ["joint", "per_token"])
def test_packed_probes_equal_a_pass_per_prefix(side, reading):
    result = answer_probabilities(model(), *inputs(side)[0], answer_probability=reading)
    torch.testing.assert_close(result, one_by_one(model(), reading), atol=1e-5, rtol=0)


@pytest.mark.parametrize("memory", [1 << 30, 1 << 18])
def test_with_kv_caches_from_sampling_only_the_probes_are_computed(memory):
    """Rows of different lengths, some truncated, graded together and in chunks."""
    prompts = [row[row != 0].tolist() for row in inputs("left")[0][0].prompt_ids_BP]
    torch.manual_seed(0)
    kv_caches: list[torch.Tensor] = []
    eos = tokenizer().eos_token_id
    completions = sample(model(), prompts, SamplingParams(70, 1.0), eos=eos, batch_size=3, kv_caches=kv_caches)
    assert any(row[-1] != eos for row in completions)
    assert any(row[-1] == eos for row in completions)
    for prompt, completion, own in zip(prompts, completions, kv_caches, strict=True):
        assert own.size(3) >= len(prompt) + len(completion) - (completion[-1] == eos)
    rollouts = Rollouts.padded(prompts, completions)
    ends = Splitter(tokenizer())(rollouts.completion_ids_BT, rollouts.completion_mask_BT).ends_BK
    probes = some_probes()
    calls: list[int] = []
    with torch.inference_mode():
        hook = model().register_forward_pre_hook(
            lambda _m, _a, how: calls.append(how["input_ids"].size(1)), with_kwargs=True
        )
        result = answer_probabilities(model(), rollouts, ends, probes, memory_bytes=memory, kv_caches=kv_caches)
        hook.remove()
        expected = answer_probabilities(model(), rollouts, ends, probes)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)
    longest = max(len(p.stop) for p in probes) + max(len(p.answer) for p in probes)
    assert max(calls) <= (ends.size(1) + 1) * longest
    assert (len(calls) > 1) == (memory < 1 << 30)


def test_after_pass_and_kv_caches_together_are_rejected():
    batch, ends, probes = inputs("left")[0]
    with pytest.raises(ValueError, match="after_pass needs a pass"):
        answer_probabilities(model(), batch, ends, probes, after_pass=lambda *_: None, kv_caches=[])


def test_packed_probes_equal_a_pass_per_prefix_with_an_adapter_too():
    torch.manual_seed(0)
    network = get_peft_model(
        AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32),
        LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"),
    ).eval()
    adapted = answer_probabilities(network, *inputs("left")[0])
    torch.testing.assert_close(adapted, one_by_one(network, "joint"), atol=1e-5, rtol=0)
    with network.disable_adapter():
        plain = answer_probabilities(network, *inputs("left")[0])
    torch.testing.assert_close(plain, answer_probabilities(model(), *inputs("left")[0]), atol=1e-5, rtol=0)
    assert not torch.allclose(plain, adapted, atol=1e-3)


def test_packed_probes_in_bfloat16_agree_to_a_tenth():
    result = answer_probabilities(model(torch.bfloat16), *inputs("left")[0])
    torch.testing.assert_close(result, one_by_one(model(torch.bfloat16), "joint"), atol=1e-1, rtol=0)


@pytest.mark.parametrize("memory_bytes", [1, 4_000_000])
def test_chunking_changes_no_value(memory_bytes):
    result = answer_probabilities(model(), *inputs("left")[0], memory_bytes=memory_bytes)
    torch.testing.assert_close(result, answer_probabilities(model(), *inputs("left")[0]), atol=1e-5, rtol=0)


def test_gains_add_up_to_the_gain_of_all_the_thinking():
    values = answer_probabilities(model(), *inputs("left")[0])
    torch.testing.assert_close(information_gains(values).sum(1), values[:, -1] - values[:, 0])
    assert information_gains(values).abs().max() <= 1


def test_a_row_with_fewer_episodes_gains_nothing_after_its_last():
    result = information_gains(answer_probabilities(model(), *inputs("left")[0]))
    assert result[2, 1:].tolist() == pytest.approx([0, 0], abs=1e-5)
    assert result[3].tolist() == pytest.approx([0, 0, 0], abs=1e-5), "there was no thinking"


def test_finding_the_answer_is_a_gain_and_repeating_it_is_not():
    right, corrected = information_gains(answer_probabilities(model(), *inputs("left")[0]))[:2].tolist()
    assert right[0] > 0.5
    assert abs(right[1]) < 0.1
    assert corrected[1] + corrected[2] > 0.5, "the checks find the first pass's slip"


def test_an_empty_probe_is_rejected():
    with pytest.raises(ValueError, match="at least one token"):
        Probe((1,), ())
