import numpy as np
import pytest
import torch

from training.job import checkpoints
from training.measure import evaluate, figures
from training.rollouts.params import SamplingParams
from training.tasks import outcome
from training.tasks.outcome import Graded, Outcome
from training.tasks.prompts import prompts


def judged(correct: list[bool], tokens: list[int], difficulty: str = "easy") -> Graded:
    pairs = zip(correct, tokens, strict=True)
    return Graded("p", "sum", difficulty, tuple(Outcome(c, t, t + 9, 1, True) for c, t in pairs))


def test_accuracy_is_pass_at_1_over_samples():
    assert judged([True, False, True, True], [1, 2, 3, 4]).accuracy == 0.75


def test_a_summary_holds_means_quantiles_and_intervals():
    rng = np.random.default_rng(0)
    rows = [judged(list(rng.random(4) < 0.8), list(rng.integers(10, 110, 4))) for _ in range(300)]
    found = figures.summarise(rows, seed=0)
    assert found.prompts == 300
    assert found.accuracy.low < found.accuracy.mean < found.accuracy.high
    assert found.accuracy.mean == pytest.approx(0.8, abs=0.04)
    assert found.quantiles["p50"] == pytest.approx(60, abs=5)
    assert found.quantiles["p05"] < found.quantiles["p25"] < found.quantiles["p99"]


def test_the_interval_covers_the_truth_about_95_times_in_a_hundred():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        found = figures.interval(list(rng.exponential(10, 150)), seed)
        covered += found.low <= 10 <= found.high
    assert 180 <= covered <= 198


def test_equal_values_have_an_interval_of_no_width():
    found = figures.interval([1.0, 1.0, 1.0], 0)
    assert found.low == found.mean == found.high == 1.0


def test_a_hundred_right_of_a_hundred_is_not_certainty():
    assert figures.interval([1.0] * 100, 0, shares=True).low == pytest.approx(0.025 ** (1 / 100))
    assert figures.interval([0.0] * 100, 0, shares=True).high == pytest.approx(1 - 0.025 ** (1 / 100))


def test_outcomes_survive_a_file(tmp_path):
    rows = [judged([True, False], [3, 4]), judged([False, False], [5, 6], "hard")]
    outcome.save(rows, tmp_path / "rows.jsonl")
    assert outcome.load(tmp_path / "rows.jsonl") == rows


def test_every_prompt_is_judged_on_its_own_samples(model, tokenizer):
    asked = prompts("heldout", 0, 7)
    rows = evaluate.sample_and_grade(model, tokenizer, asked, SamplingParams(8, 1.0, samples=3, seed=0))
    assert [row.prompt for row in rows] == [p.prompt for p in asked]
    assert all(len(row.outcomes) == 3 for row in rows)


def test_surprisal_is_of_the_thinking_and_its_end_alone(on_shipped, monkeypatch):
    """Read again by another forward pass over what was sampled."""
    sampled: list[tuple[list[int], list[int]]] = []

    def spied(model, asked, params, **how):
        completions = sample(model, asked, params, **how)
        sampled.extend(zip(asked, completions, strict=True))
        return completions

    sample = evaluate.sample
    monkeypatch.setattr(evaluate, "sample", spied)
    model, tokenizer = checkpoints.load_base(on_shipped)
    asked = prompts("test", 5, 4)
    params = SamplingParams(300, 1.0, seed=0)
    rows = evaluate.sample_and_grade(model, tokenizer, asked, params, surprisal=True)
    end = tokenizer.convert_tokens_to_ids("</think>")
    expected = set()
    for prompt, completion in sampled:
        thought = completion[: completion.index(end) + 1]
        logits = model(torch.tensor([prompt + thought])).logits[0, len(prompt) - 1 : -1].float()
        nats = -logits.log_softmax(-1).gather(1, torch.tensor(thought)[:, None]).sum().item()
        expected.add((len(thought) - 1, round(nats, 1)))
    assert {(o.reasoning_tokens, round(o.surprisal, 1)) for row in rows for o in row.outcomes} == expected
    without = evaluate.sample_and_grade(model, tokenizer, asked, params)
    assert [o.surprisal for row in without for o in row.outcomes] == [None] * 4
