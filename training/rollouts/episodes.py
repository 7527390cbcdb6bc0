"""Into which episodes does a rollout's thinking fall?

The dense reward pays per episode: a run of consecutive thinking tokens (arXiv 2505.10425, sec. 4.1). The paper prompts
for `<episode_1>` tags; reasoning models write blank lines by themselves; `tokens` needs neither. Every thinking token
is in exactly one episode, and the answer belongs to the last.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, get_args

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from training.job.checkpoints import THINK_END

SplitBy = Literal["blank_line", "tags", "tokens"]
MAX_EPISODES = 30
"""arXiv 2505.10425, app. F."""
_TAG = re.compile(r"<episode_\d+>")


@dataclass(frozen=True)
class Episodes:
    """A batch of completions in episodes.

    `index_BT` is each token's episode from 0, -1 on padding. `thinking_BT` is True before `</think>`; a completion that
    never closes its thinking is thinking throughout. `said_BT` is True on thinking tokens that are not white space.
    """

    index_BT: Tensor
    thinking_BT: Tensor
    said_BT: Tensor

    @property
    def count_B(self) -> Tensor:
        """Episodes of each completion; 1 where nothing was thought, 0 for a row of padding."""
        return self.index_BT.amax(1) + 1

    @property
    def tokens_BK(self) -> Tensor:
        """Thinking tokens of each episode, (B, K)."""
        counts_BK = self.index_BT.new_zeros(len(self.index_BT), max(int(self.index_BT.max()) + 1, 1))
        return counts_BK.scatter_add_(1, self.index_BT.clamp(min=0), self.thinking_BT.long())

    @property
    def stopped_BT(self) -> Tensor:
        """True after the last word of the thinking: what stops it, white space included, and the answer.

        Nowhere in a completion that says nothing before it stops: it chose that where others chose their first word.
        """
        position_T = torch.arange(1, self.index_BT.size(1) + 1, device=self.index_BT.device)
        last_B1 = (self.said_BT * position_T).amax(1, keepdim=True)
        return (position_T > last_B1) & (last_B1 > 0) & (self.index_BT >= 0)

    @property
    def ends_BK(self) -> Tensor:
        """Tokens up to the last word of each episode, (B, K); constant from a row's last episode on.

        White space after it is left out: what stops the thinking there brings its own.
        """
        upto_BT = self.said_BT * torch.arange(1, self.index_BT.size(1) + 1, device=self.index_BT.device)
        ends_BK = upto_BT.new_zeros(len(upto_BT), max(int(self.index_BT.max()) + 1, 1))
        return ends_BK.scatter_reduce(1, self.index_BT.clamp(min=0), upto_BT, "amax").cummax(1).values


class Splitter:
    """Splits completions of one tokenizer."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        by: SplitBy = "blank_line",
        *,
        max_episodes: int = MAX_EPISODES,
        every: int = 256,
    ) -> None:
        """`by` is where a new episode starts: after a blank line, at an `<episode_i>` tag, or every `every` tokens.

        Raises:
            ValueError: an unknown `by`, or a limit below 1.
        """
        if by not in get_args(SplitBy):
            raise ValueError(f"by must be one of {', '.join(get_args(SplitBy))}, got {by!r}")
        if max_episodes < 1 or every < 1:
            raise ValueError(f"max_episodes and every must be at least 1, got {max_episodes} and {every}")
        self._tokenizer, self._by, self._max, self._every = tokenizer, by, max_episodes, every
        self._end: int = tokenizer.convert_tokens_to_ids(THINK_END)
        texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], skip_special_tokens=False)
        self._blank_V = torch.tensor(["\n\n" in text for text in texts])
        self._opens_V = torch.tensor([text.startswith("\n") for text in texts])
        self._closes_V = torch.tensor([text.endswith("\n") for text in texts])
        self._space_V = torch.tensor([text.isspace() for text in texts])

    def __call__(self, ids_BT: Tensor, mask_BT: Tensor) -> Episodes:
        """Completions, right-padded, and 1 where a token is one, both (B, T)."""
        mask_BT = mask_BT.bool()
        closed_BT = (ids_BT == self._end).cumsum(1) > 0
        thinking_BT = mask_BT & ~closed_BT
        said_BT = thinking_BT & ~_looked_up(self._space_V, ids_BT)
        starts_BT = getattr(self, f"_{self._by}")(ids_BT, said_BT) & thinking_BT
        starts_BT[:, :1] = False
        index_BT = starts_BT.cumsum(1)
        for row in (index_BT.amax(1) >= self._max).nonzero().flatten().tolist():
            index_BT[row] = _merged(index_BT[row], thinking_BT[row], self._max)
        return Episodes(index_BT.masked_fill(~mask_BT, -1), thinking_BT, said_BT)

    def _tokens(self, ids_BT: Tensor, _: Tensor) -> Tensor:
        position_T = torch.arange(ids_BT.size(1), device=ids_BT.device)
        return (position_T % self._every == 0).expand_as(ids_BT).clone()

    def _blank_line(self, ids_BT: Tensor, said_BT: Tensor) -> Tensor:
        """Where white space with a blank line in it begins, if anything is said after it.

        So the blank line, which is the decision to go on thinking, belongs to the episode that it opens.
        """
        blank_BT = _looked_up(self._blank_V, ids_BT)
        blank_BT[:, 1:] |= _looked_up(self._closes_V, ids_BT[:, :-1]) & _looked_up(self._opens_V, ids_BT[:, 1:])
        position_BT = torch.arange(ids_BT.size(1), device=ids_BT.device).expand_as(ids_BT)
        last_said_BT = torch.where(said_BT, position_BT, -1).cummax(1).values
        before_BT = torch.cat([torch.full_like(last_said_BT[:, :1], -1), last_said_BT[:, :-1]], 1)
        blanks_BT = torch.cat([torch.zeros_like(ids_BT[:, :1]), blank_BT.cumsum(1)], 1)  # before each position
        since_BT = blanks_BT[:, :-1] - blanks_BT.gather(1, before_BT.clamp(min=0))
        first_said_BT = said_BT & (before_BT >= 0) & (since_BT > 0)
        starts_BT = torch.zeros_like(said_BT)
        rows, columns = first_said_BT.nonzero(as_tuple=True)
        starts_BT[rows, before_BT[rows, columns] + 1] = True
        return starts_BT

    def _tags(self, ids_BT: Tensor, said_BT: Tensor) -> Tensor:
        """At the token in which `<episode_i>` begins; what stands before the first tag belongs to the first episode."""
        starts_BT = torch.zeros_like(said_BT)
        for row, (ids, said) in enumerate(zip(ids_BT.tolist(), said_BT, strict=True)):
            length = int(said.nonzero().max()) + 1 if said.any() else 0
            pieces: list[str] = self._tokenizer.convert_ids_to_tokens(ids[:length])
            pieces = [piece or "" for piece in pieces]  # a model may have more embeddings than its tokenizer has tokens
            offsets = [0, *accumulate(map(len, pieces))]
            for tag in list(_TAG.finditer("".join(pieces)))[1:]:
                starts_BT[row, bisect_right(offsets, tag.start()) - 1] = True
        return starts_BT


def _looked_up(table_V: Tensor, ids_BT: Tensor) -> Tensor:
    """The table's entries; False for ids that the tokenizer does not know, of which models have some to spare."""
    table_V = table_V.to(ids_BT.device)
    return table_V[ids_BT.clamp(max=len(table_V) - 1)] & (ids_BT < len(table_V))


def _merged(index_T: Tensor, thinking_T: Tensor, most: int) -> Tensor:
    """The same row in at most `most` episodes: the shortest joins its shorter neighbour until they are few enough."""
    lengths = torch.bincount(index_T[thinking_T]).tolist()
    members = [[episode] for episode in range(len(lengths))]
    while len(lengths) > most:
        shortest = min(range(len(lengths)), key=lengths.__getitem__)
        neighbours = [i for i in (shortest - 1, shortest + 1) if 0 <= i < len(lengths)]
        left, right = sorted((shortest, min(neighbours, key=lengths.__getitem__)))
        lengths[left : right + 1] = [lengths[left] + lengths[right]]
        members[left : right + 1] = [members[left] + members[right]]
    new = torch.empty(sum(map(len, members)), dtype=torch.long)
    for episode, old in enumerate(members):
        new[old] = episode
    return new.to(index_T.device)[index_T]
