"""How accurate is a checkpoint, and how long does it think? Outcomes on prompts, figures with intervals from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training.config import DenseReward
from training.rewards.dense import EpisodeGrader
from training.rewards.information_gain import success
from training.rollouts.batch import Rollouts
from training.rollouts.grade import Grader
from training.rollouts.params import SamplingParams
from training.rollouts.sample import encoded, sample
from training.tasks.outcome import Graded, Outcome
from training.tasks.question import Question


def sample_and_grade(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Question],
    params: SamplingParams,
    *,
    on_batch: Callable[[int], None] = lambda _: None,
    first_episode: DenseReward | None = None,
    surprisal: bool = False,
) -> list[Graded]:
    """Sample every prompt `params.samples` times and judge the completions.

    `first_episode` says how an answer is written and episodes are split, where what the first one was worth is wanted;
    `surprisal`, that how unsure the thinking was of itself is.
    """
    ids = encoded(tokenizer, prompts)
    # Prompts of like length, and so of like difficulty, finish together.
    order = sorted(range(len(prompts)), key=lambda i: len(ids[i]))
    repeated = [i for i in order for _ in range(params.samples)]
    nats: list[list[float]] = []
    completions = sample(
        model,
        [ids[i] for i in order],
        params,
        eos=tokenizer.eos_token_id,  # pyright: ignore[reportArgumentType]
        on_batch=on_batch,
        surprisals=nats if surprisal else None,
    )
    golds = [prompts[i].answer for i in repeated]
    judged = map(Grader(tokenizer, first_episode), completions, golds)
    if first_episode:
        asked = [ids[i] for i in repeated]
        worth = _after_first(model, EpisodeGrader(tokenizer, first_episode), asked, completions, golds)
        judged = map(lambda outcome, value: replace(outcome, after_first=value), judged, worth)
    if surprisal:
        judged = map(_with_surprisal, judged, nats)
    outcomes: dict[int, list[Outcome]] = {i: [] for i in order}
    for i, outcome in zip(repeated, judged, strict=True):
        outcomes[i].append(outcome)
    return [Graded(p.prompt, p.task, p.difficulty, tuple(outcomes[i])) for i, p in enumerate(prompts)]


def _with_surprisal(outcome: Outcome, nats: Sequence[float]) -> Outcome:
    """`nats` are those of every token of its completion; those up to `</think>` count."""
    return replace(outcome, surprisal=round(sum(nats[: outcome.reasoning_tokens + 1]), 4))


def _after_first(
    model: PreTrainedModel,
    judged: EpisodeGrader,
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
