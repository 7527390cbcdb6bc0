"""What does a checkpoint answer on these prompts, and is it correct? Graded samples from a loaded model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training.config import DenseReward
from training.measure.drawing import Draw
from training.rewards.dense import EpisodeGrader
from training.rewards.information_gain import answer_probabilities
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
    draw: Draw | None = None,
) -> list[Graded]:
    """Sample every prompt `params.samples` times and grade the completions.

    `draw` samples from the model; None: in this process.
    `first_episode`: if given, outcomes also have `after_first`, P(gold answer) after the first episode, split and
    probed with these settings. `surprisal`: outcomes also have the thinking's -log P.
    """
    ids = encoded(tokenizer, prompts)
    # Prompts of similar length, and so of similar difficulty, finish together.
    order = sorted(range(len(prompts)), key=lambda i: len(ids[i]))
    repeated = [i for i in order for _ in range(params.samples)]
    nats: list[list[float]] = []
    completions = (draw or partial(sample, model))(
        [ids[i] for i in order],
        params,
        eos=tokenizer.eos_token_id,
        on_batch=on_batch,
        surprisals=nats if surprisal else None,
    )
    golds = [prompts[i].answer for i in repeated]
    graded = map(Grader(tokenizer, first_episode), completions, golds)
    if first_episode:
        grader = EpisodeGrader(tokenizer, first_episode)
        values = after_first(model, grader, [ids[i] for i in repeated], completions, golds)
        graded = map(lambda outcome, value: replace(outcome, after_first=value), graded, values)
    if surprisal:
        graded = map(_with_surprisal, graded, nats)
    outcomes: dict[int, list[Outcome]] = {i: [] for i in order}
    for i, outcome in zip(repeated, graded, strict=True):
        outcomes[i].append(outcome)
    return [Graded(p.prompt, p.task, p.difficulty, tuple(outcomes[i])) for i, p in enumerate(prompts)]


def _with_surprisal(outcome: Outcome, nats: Sequence[float]) -> Outcome:
    """The outcome with its surprisal: the sum over the tokens up to `</think>`. `nats` are those of all its tokens."""
    return replace(outcome, surprisal=round(sum(nats[: outcome.reasoning_tokens + 1]), 4))


def after_first(
    model: PreTrainedModel,
    grader: EpisodeGrader,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    golds: Sequence[str],
) -> list[float]:
    """P(gold answer) after the first episode of each completion.

    J_1 of `training.rewards.information_gain`, always joint. With `dense.reading: per_token`, the reward's J_1 differs.
    """
    full = Rollouts.padded(prompts, completions, model.device)
    first_B1 = grader.split(full.completion_ids_BT, full.completion_mask_BT).ends_BK[:, :1]
    firsts = [list(completion[:end]) for completion, end in zip(completions, first_B1.flatten().tolist(), strict=True)]
    rollouts = Rollouts.padded(prompts, firsts, model.device)
    probes = [grader.probe(gold) for gold in golds]
    success_B2 = answer_probabilities(model, rollouts, first_B1, probes, memory_bytes=grader.memory_bytes(model))
    return [round(value, 6) for value in success_B2[:, 1].tolist()]
