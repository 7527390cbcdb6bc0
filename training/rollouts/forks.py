"""Which rollouts think on where they had stopped? Forks: they keep their prefix, and are continued past their stop.

Once a policy mostly stops, it hardly ever sees what thinking on would have brought, and cannot learn where it pays. So
a share of the rollouts that stopped are cut where their thinking ended, a blank line is put there, and the policy goes
on from it. What a stop is worth needs no rollout: the dense reward's probe measures it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from training.recipe_dense import Forks
from training.rollouts.batch import Rollouts
from training.rollouts.engine import Completion
from training.rollouts.episodes import Splitter

BLANK_LINE = "\n\n"
NEVER = 10**9
"""Episodes before the fork of a rollout that has none."""


@dataclass(frozen=True)
class Fork:
    """A rollout's prefix that is continued."""

    row: int
    episodes: int
    """Episodes in the prefix."""
    ids: list[int]
    """The completion's token ids up to the blank line that was put there."""
    own: int
    """How many of `ids` the policy sampled; the others were put there."""

    def joined(self, stopped: Completion, continued: Completion) -> Completion:
        """The forked rollout. Tokens that were put there have an unknown log probability, NaN.

        Args:
            stopped: the rollout as it was.
            continued: the completion of prompt and prefix, with its KV cache if there is one.
        """
        unknown = [math.nan] * (len(self.ids) - self.own)
        return Completion(
            self.ids + continued.ids, stopped.logprobs[: self.own] + unknown + continued.logprobs, continued.kv_cache
        )


def think_on(
    tokenizer: PreTrainedTokenizerBase,
    split: Splitter,
    prompts: Sequence[list[int]],
    completions: Sequence[Completion],
    settings: Forks,
    *,
    sample: Callable[[list[list[int]], int], list[Completion]],
    max_tokens: int,
) -> tuple[list[Completion], list[int]]:
    """A batch of rollouts, some of which think on where they had stopped.

    Args:
        tokenizer: the model's.
        split: into episodes.
        prompts: token ids of each rollout's prompt.
        completions: the rollouts, with the log probabilities of their tokens.
        settings: how many are forked, and which.
        sample: one completion for each of some token ids, of at most so many tokens.
        max_tokens: longest completion.

    Returns:
        The rollouts, and how many episodes each had thought before its fork, `NEVER` without one.
    """
    found = find(tokenizer, split, completions, settings, max_tokens=max_tokens)
    rollouts, before = list(completions), [NEVER] * len(completions)
    if found:
        room = max_tokens - max(len(fork.ids) for fork in found)
        continued = sample([prompts[fork.row] + fork.ids for fork in found], room)
        for fork, more in zip(found, continued, strict=True):
            rollouts[fork.row], before[fork.row] = fork.joined(completions[fork.row], more), fork.episodes
    return rollouts, before


def find(
    tokenizer: PreTrainedTokenizerBase,
    split: Splitter,
    completions: Sequence[Completion],
    settings: Forks,
    *,
    max_tokens: int,
) -> list[Fork]:
    """The forks of a batch of rollouts, in their order.

    Args:
        tokenizer: the model's.
        split: into episodes.
        completions: the rollouts, with the log probabilities of their tokens.
        settings: how many are forked, and which.
        max_tokens: longest completion. A rollout that thought for more than half of it is left as it is.
    """
    ids = [completion.ids for completion in completions]
    batch = Rollouts.padded([[0]] * len(ids), ids)
    episodes = split(batch.completion_ids_BT, batch.completion_mask_BT)
    ends_B = episodes.ends_BK[:, -1]
    finished_B = torch.tensor([own[-1] == tokenizer.eos_token_id for own in ids])
    possible_B = finished_B & episodes.stopped_BT.any(1) & (2 * ends_B <= max_tokens)
    surprisal_B = torch.tensor(
        [_surprisal(own.logprobs[:end]) for own, end in zip(completions, ends_B.tolist(), strict=True)]
    )
    rows = choose(possible_B, surprisal_B, share=settings.share, surprised=settings.surprised)
    return [
        Fork(row, int(episodes.count_B[row]), *with_blank_line(tokenizer, ids[row], int(ends_B[row]))) for row in rows
    ]


def choose(possible_B: Tensor, surprisal_B: Tensor, *, share: float, surprised: float) -> list[int]:
    """Which rollouts are forked: rows, ascending.

    Args:
        possible_B: rows that can be.
        surprisal_B: -log P of each rollout's thinking, in nats.
        share: share of all rows to fork, rounded; fewer if fewer can be.
        surprised: share of the forks that are the most surprising rollouts. The others are drawn at random, with
            torch's global generator.
    """
    rows = possible_B.nonzero().squeeze(1)
    count = min(len(rows), round(share * len(possible_B)))
    most = math.ceil(surprised * count)
    order = rows[surprisal_B[rows].argsort(descending=True, stable=True)]
    rest = order[most:]
    drawn = rest[torch.randperm(len(rest))[: count - most].to(rest.device)]
    return sorted([*order[:most].tolist(), *drawn.tolist()])


def _surprisal(logprobs: Sequence[float]) -> float:
    """-log P of some tokens, in nats; a token of unknown probability (NaN) counts as certain."""
    return -math.fsum(value for value in logprobs if not math.isnan(value))


def with_blank_line(tokenizer: PreTrainedTokenizerBase, completion: Sequence[int], end: int) -> tuple[list[int], int]:
    """A completion's first `end` tokens and a blank line as the tokenizer writes it there, and how many are its own.

    If the tokenizer fuses the blank line with the last word, that token is replaced.
    """
    last = tokenizer.decode(completion[end - 1 : end], skip_special_tokens=False)
    ids = [*completion[: end - 1], *tokenizer.encode(last.rstrip() + BLANK_LINE, add_special_tokens=False)]
    own = next((i for i, (a, b) in enumerate(zip(ids, completion[:end], strict=False)) if a != b), end)
    return ids, own
