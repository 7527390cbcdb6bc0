import numpy as np
import pytest
import torch

from training.job import checkpoints
from training.measure import evaluate, figures
from training.rollouts.params import SamplingParams
from training.tasks import outcome
from training.tasks.outcome import Graded, Outcome
from training.tasks.prompts import prompts


def graded(correct: list[bool], tokens: list[int], difficulty: str = "easy") -> Graded:
    pairs = zip(correct, tokens, strict=True)
    return Graded("p", "sum", difficulty, tuple(Outcome(c, t, t + 9, 1, True) for c, t in pairs))


def test_accuracy_is_pass_at_1_over_samples():
    assert graded([True, False, True, True], [1, 2, 3, 4]).accuracy == 0.75


def test_a_summary_has_means_quantiles_and_intervals():
    rng = np.random.default_rng(0)
    rows = [graded(list(rng.random(4) < 0.8), list(rng.integers(10, 110, 4))) for _ in range(300)]
    summary = figures.summarise(rows, seed=0)
    assert summary.prompts == 300
    assert summary.accuracy.low < summary.accuracy.mean < summary.accuracy.high
    assert summary.accuracy.mean == pytest.approx(0.8, abs=0.04)
    assert summary.quantiles["p50"] == pytest.approx(60, abs=5)
    assert summary.quantiles["p05"] < summary.quantiles["p25"] < summary.quantiles["p99"]


def test_the_interval_covers_the_true_mean_about_95_times_in_100():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        interval = figures.interval(list(rng.exponential(10, 150)), seed)
        covered += interval.low <= 10 <= interval.high
    assert 180 <= covered <= 198


def test_equal_values_have_an_interval_of_width_zero():
    interval = figures.interval([1.0, 1.0, 1.0], 0)
    assert interval.low == interval.mean == interval.high == 1.0


def test_a_hundred_correct_of_a_hundred_still_has_an_interval():
    assert figures.interval([1.0] * 100, 0, shares=True).low == pytest.approx(0.025 ** (1 / 100))
    assert figures.interval([0.0] * 100, 0, shares=True).high == pytest.approx(1 - 0.025 ** (1 / 100))


def test_saved_outcomes_load_unchanged(tmp_path):
    rows = [graded([True, False], [3, 4]), graded([False, False], [5, 6], "hard")]
    outcome.save(rows, tmp_path / "rows.jsonl")
    assert outcome.load(tmp_path / "rows.jsonl") == rows


def test_every_prompt_has_its_own_samples(model, tokenizer):
    questions = prompts("heldout", 0, 7)
    rows = evaluate.sample_and_grade(model, tokenizer, questions, SamplingParams(8, 1.0, samples=3, seed=0))
    assert [row.prompt for row in rows] == [p.prompt for p in questions]
    assert all(len(row.outcomes) == 3 for row in rows)


def test_surprisal_covers_the_thinking_and_its_end_marker_only(on_shipped, monkeypatch):
    """Compared with another forward pass over the sampled tokens."""
    sampled: list[tuple[list[int], list[int]]] = []

    def spied(model, ids, params, **how):
        completions = sample(model, ids, params, **how)
        sampled.extend(zip(ids, completions, strict=True))
        return completions

    sample = evaluate.sample
    monkeypatch.setattr(evaluate, "sample", spied)
    model, tokenizer = checkpoints.load_base(on_shipped)
    questions = prompts("validation", 5, 4)
    params = SamplingParams(300, 1.0, seed=0)
    rows = evaluate.sample_and_grade(model, tokenizer, questions, params, surprisal=True)
    end = tokenizer.convert_tokens_to_ids("</think>")
    expected = set()
    for prompt, completion in sampled:
        thought = completion[: completion.index(end) + 1]
        logits = model(torch.tensor([prompt + thought])).logits[0, len(prompt) - 1 : -1].float()
        nats = -logits.log_softmax(-1).gather(1, torch.tensor(thought)[:, None]).sum().item()
        expected.add((len(thought) - 1, round(nats, 1)))
    assert {(o.reasoning_tokens, round(o.surprisal, 1)) for row in rows for o in row.outcomes} == expected
    without = evaluate.sample_and_grade(model, tokenizer, questions, params)
    assert [o.surprisal for row in without for o in row.outcomes] == [None] * 4
