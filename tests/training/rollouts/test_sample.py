import torch

from training.rollouts.params import SamplingParams
from training.rollouts.sample import sample


def test_greedy_sampling_equals_hugging_face_s_generate_row_by_row(model, tokenizer):
    prompts = [tokenizer.encode(text) for text in ("1+1", "What is 12 + 35 - 8?", "7*8 and then some more words", "9")]
    result = sample(model, prompts, SamplingParams(24, 0), eos=tokenizer.eos_token_id)
    for prompt, completion in zip(prompts, result, strict=True):
        whole = model.generate(
            torch.tensor([prompt]), max_new_tokens=24, do_sample=False, pad_token_id=tokenizer.pad_token_id
        )
        assert whole[0, len(prompt) :].tolist() == completion


def test_dropping_finished_rows_changes_nothing(model, tokenizer):
    """An eos that greedy decoding reaches early in some rows only, so that rows leave the batch at different times."""
    prompts = [tokenizer.encode(f"{n} + {n * n}") for n in range(12)]
    free = sample(model, prompts, SamplingParams(16, 0), eos=-1)
    eos = max({t for row in free for t in row}, key=lambda t: sum(t in row[3:12] for row in free))
    expected = [row[: row.index(eos) + 1] if eos in row else row for row in free]
    lengths = {len(row) for row in expected}
    assert len(lengths) > 1
    assert sample(model, prompts, SamplingParams(16, 0), eos=eos) == expected


def test_a_completion_that_reaches_the_limit_has_no_eos(model, tokenizer):
    [completion] = sample(model, [tokenizer.encode("1")], SamplingParams(5, 0), eos=-1)
    assert len(completion) == 5


def test_sampling_follows_the_seed(model, tokenizer):
    prompts = [tokenizer.encode("1+2")] * 8
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(sample(model, prompts, SamplingParams(10, 1.0), eos=tokenizer.eos_token_id))
    assert runs[0] == runs[1] != runs[2]


def test_on_batch_receives_the_number_of_completions_after_every_batch(model, tokenizer):
    counts: list[int] = []
    sample(model, [tokenizer.encode("1")] * 5, SamplingParams(2, 0), eos=-1, batch_size=2, on_batch=counts.append)
    assert counts == [2, 4, 5]


def test_surprisals_are_the_model_s_own_at_temperature_1(model, tokenizer):
    prompts = [tokenizer.encode(text) for text in ("1+1", "What is 12 + 35 - 8?", "7*8", "9", "1 + 2 + 3")]
    surprisals: list[list[float]] = []
    torch.manual_seed(0)
    eos = tokenizer.eos_token_id
    result = sample(model, prompts, SamplingParams(40, 0.7), eos=eos, batch_size=3, surprisals=surprisals)
    for prompt, completion, nats in zip(prompts, result, surprisals, strict=True):
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        expected = -logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(nats), expected, atol=1e-4, rtol=1e-4)
