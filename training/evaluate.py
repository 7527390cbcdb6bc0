"""How accurate is a checkpoint, and how long does it think? Outcomes on prompts, figures with intervals from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import binomtest, bootstrap
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.family import Estimate, Slice
from training.batch import Rollouts
from training.config import DenseReward
from training.judge import Judge, Outcome
from training.record import write_text
from training.rewards.dense import EpisodeJudge
from training.rewards.information_gain import success
from training.rollout import encoded, sample
from training.tasks.problems import DIFFICULTIES
from training.tasks.question import Question

QUANTILES = {"p05": 0.05, "p10": 0.1, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p90": 0.9, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True)
class Judged:
    """One prompt with the outcomes of its samples."""

    prompt: str
    task: str
    difficulty: str
    outcomes: tuple[Outcome, ...]

    @property
    def accuracy(self) -> float:
        """pass@1: the mean over samples."""
        return float(np.mean([o.correct for o in self.outcomes]))

    @property
    def reasoning_tokens(self) -> float:
        return float(np.mean([o.reasoning_tokens for o in self.outcomes]))


def judge(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Question],
    *,
    samples: int,
    temperature: float,
    max_tokens: int,
    seed: int,
    on_batch: Callable[[int], None] = lambda _: None,
    first_episode: DenseReward | None = None,
    surprisal: bool = False,
) -> list[Judged]:
    """Sample every prompt `samples` times and judge the completions.

    `first_episode` says how an answer is written and episodes are split, where what the first one was worth is wanted;
    `surprisal`, that how unsure the thinking was of itself is.
    """
    torch.manual_seed(seed)
    ids = encoded(tokenizer, prompts)
    # Prompts of like length, and so of like difficulty, finish together.
    order = sorted(range(len(prompts)), key=lambda i: len(ids[i]))
    repeated = [i for i in order for _ in range(samples)]
    nats: list[list[float]] = []
    completions = sample(
        model,
        [ids[i] for i in repeated],
        max_tokens=max_tokens,
        temperature=temperature,
        eos=tokenizer.eos_token_id,  # pyright: ignore[reportArgumentType]
        on_batch=on_batch,
        surprisals=nats if surprisal else None,
    )
    golds = [prompts[i].answer for i in repeated]
    judged = map(Judge(tokenizer, first_episode), completions, golds)
    if first_episode:
        asked = [ids[i] for i in repeated]
        worth = _after_first(model, EpisodeJudge(tokenizer, first_episode), asked, completions, golds)
        judged = map(lambda outcome, value: replace(outcome, after_first=value), judged, worth)
    if surprisal:
        judged = map(_with_surprisal, judged, nats)
    outcomes: dict[int, list[Outcome]] = {i: [] for i in order}
    for i, outcome in zip(repeated, judged, strict=True):
        outcomes[i].append(outcome)
    return [Judged(p.prompt, p.task, p.difficulty, tuple(outcomes[i])) for i, p in enumerate(prompts)]


def _with_surprisal(outcome: Outcome, nats: Sequence[float]) -> Outcome:
    """`nats` are those of every token of its completion; those up to `</think>` count."""
    return replace(outcome, surprisal=round(sum(nats[: outcome.reasoning_tokens + 1]), 4))


def _after_first(
    model: PreTrainedModel,
    judged: EpisodeJudge,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    golds: Sequence[str],
) -> list[float]:
    """J_1 of each completion (`training.rewards.information_gain`)."""
    whole = Rollouts.padded(prompts, completions, model.device)
    first_B1 = judged.split(whole.completion_ids_BT, whole.completion_mask_BT).ends_BK[:, :1]
    read = [list(completion[:end]) for completion, end in zip(completions, first_B1.flatten().tolist(), strict=True)]
    rollouts = Rollouts.padded(prompts, read, model.device)
    probes = [judged.probe(gold) for gold in golds]
    found = success(model, rollouts, first_B1, probes, memory_bytes=judged.memory_bytes(model))
    return [round(value, 6) for value in found[:, 1].tolist()]


def summarise(rows: Sequence[Judged], seed: int) -> Slice:
    """Accuracy and reasoning tokens with 95 % bootstrap intervals over prompts, and the tokens' quantiles."""
    tokens = np.array([o.reasoning_tokens for row in rows for o in row.outcomes], dtype=float)
    levels = np.quantile(tokens, list(QUANTILES.values()))
    return Slice(
        prompts=len(rows),
        accuracy=interval([row.accuracy for row in rows], seed, shares=True),
        reasoning_tokens=interval([row.reasoning_tokens for row in rows], seed),
        quantiles=dict(zip(QUANTILES, map(float, levels), strict=True)),  # pyright: ignore[reportArgumentType]
    )


def interval(values: Sequence[float], seed: int, *, shares: bool = False) -> Estimate:
    """Mean with its 95 % percentile bootstrap interval over `values`, which must be independent.

    With `shares`, values lie in [0, 1]; where all are 0 or all are 1, resampling knows nothing of the doubt that is
    left, and the interval is the exact binomial one.
    """
    data = np.asarray(values, dtype=float)
    mean = float(data.mean())
    if shares and np.ptp(data) == 0 and mean in (0, 1):
        exact = binomtest(int(data.sum()), len(data)).proportion_ci()
        return Estimate(mean=mean, low=float(exact.low), high=float(exact.high))
    if np.ptp(data) == 0:
        return Estimate(mean=mean, low=mean, high=mean)
    found = bootstrap(
        (data,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return Estimate(mean=mean, low=min(mean, float(found.low)), high=max(mean, float(found.high)))


def difficulties(rows: Sequence[Judged]) -> list[str]:
    """Those that there are, the arithmetic ones in their order, others by name."""
    there = {row.difficulty for row in rows}
    return [d for d in DIFFICULTIES if d in there] + sorted(there - set(DIFFICULTIES))


def save(rows: Sequence[Judged], path: Path) -> None:
    """One JSON line per prompt; whole or not at all."""
    write_text(path, "".join(json.dumps(asdict(row)) + "\n" for row in rows))


def load(path: Path) -> list[Judged]:
    """Read what `save` wrote."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [Judged(r["prompt"], r["task"], r["difficulty"], tuple(Outcome(**o) for o in r["outcomes"])) for r in rows]
