import random

import pytest
import torch

from tests.training.conftest import TINY
from training.base import traces, train
from training.base.train import Batches, encode
from training.recipe_base import BaseStage
from training.tasks.prompts import prompts


def test_only_the_completion_is_learned(tokenizer):
    prompt = prompts("train", 0, 1)[0]
    trace = traces.write(prompt.chain, random.Random(0))
    ids, labels = encode(prompt, trace, tokenizer, random.Random(1), truncated=0.0)
    learned = [label for label in labels if label != -100]
    completion = tokenizer.decode(ids).partition("<think>")[2]
    assert tokenizer.decode(learned) == completion
    assert completion.endswith(f"</think>\n\nThe answer is {prompt.answer}.<|im_end|>")


def test_slipped_digits_are_not_learned(tokenizer):
    questions = prompts("train", 0, 300, difficulty="hard")
    slipped = 0
    for i, prompt in enumerate(questions):
        trace = traces.write(prompt.chain, random.Random(i))
        hidden = "".join(p.text for e in trace.episodes for p in e if not p.learned)
        ids, labels = encode(prompt, trace, tokenizer, random.Random(i), truncated=0.0)
        start = ids.index(tokenizer.convert_tokens_to_ids("<think>")) + 1
        assert (
            tokenizer.decode([t for t, label in zip(ids[start:], labels[start:], strict=True) if label == -100])
            == hidden
        )
        slipped += bool(hidden)
    assert slipped > 20


def test_of_a_truncated_trace_only_the_answer_is_learned(tokenizer):
    for i, prompt in enumerate(prompts("train", 0, 200)):
        trace = traces.write(prompt.chain, random.Random(i))
        if all(p.learned for e in trace.episodes for p in e):
            _, labels = encode(prompt, trace, tokenizer, random.Random(i), truncated=1.0)
            learned = tokenizer.decode([label for label in labels if label != -100])
            assert learned == f"</think>\n\nThe answer is {prompt.answer}.<|im_end|>"


def test_some_truncated_traces_look_like_switched_off_thinking(tokenizer):
    prompt = prompts("train", 0, 1)[0]
    switched_off = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt.prompt}], add_generation_prompt=True, tokenize=False, enable_thinking=False
    )
    texts = [
        tokenizer.decode(
            encode(prompt, traces.write(prompt.chain, random.Random(i)), tokenizer, random.Random(i), truncated=1.0)[0]
        )
        for i in range(200)
    ]
    assert sum(text.startswith(switched_off) for text in texts) > 20


def test_batches_depend_on_their_index_alone(tokenizer):
    one, other = (Batches(TINY, tokenizer, seed=3) for _ in range(2))
    for index in (17, 2, 31):
        assert torch.equal(one[index]["input_ids"], other[index]["input_ids"])
        assert torch.equal(one[index]["labels"], other[index]["labels"])
    assert not torch.equal(one[0]["labels"][0], one[16]["labels"][0])


def test_batches_hold_about_batch_tokens_tokens(tokenizer):
    batches = Batches(TINY, tokenizer, seed=0)
    sizes = [batches[i]["labels"].numel() for i in range(len(batches))]
    assert TINY.batch_tokens * 0.5 < sum(sizes) / len(sizes) < TINY.batch_tokens * 1.6


def test_easier_prompts_come_first(tokenizer):
    weights = Batches(TINY, tokenizer, seed=0)._difficulty_weights
    assert weights(0.0)[2] == 0
    assert weights(0.0)[0] > weights(0.9)[0]
    assert abs(sum(weights(0.1)) - 1) < 1e-9


def test_training_lowers_the_loss(tokenizer, tmp_path):
    torch.manual_seed(0)
    batch = Batches(TINY, tokenizer, seed=0)[0]
    fresh = train.new_model(TINY, tokenizer)
    trained = train.train(TINY, tokenizer, 0, tmp_path)
    with torch.no_grad():
        assert trained(**batch).loss < fresh(**batch).loss - 1


def test_folding_a_temperature_divides_the_logits(model, tokenizer):
    ids = torch.tensor([tokenizer.encode("What is 12 + 35?")])
    before = model(ids).logits
    train.fold_temperature(model, 0.7)
    torch.testing.assert_close(model(ids).logits, before / 0.7)


def test_the_learning_rate_warms_up_and_falls_along_a_cosine():
    stage = BaseStage(steps=100, warmup=0.1)
    rates = [train.lr_fraction(stage, step) for step in range(101)]
    assert rates[:11] == pytest.approx([*(i / 10 for i in range(1, 11)), 1.0])
    assert rates[55] == pytest.approx(0.51)
    assert rates[100] == pytest.approx(0.02)
    assert rates[10:] == sorted(rates[10:], reverse=True)
