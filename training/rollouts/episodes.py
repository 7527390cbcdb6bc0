"""Which episodes is a rollout's thinking made of?

The dense reward pays per episode, a run of consecutive thinking tokens (arXiv 2505.10425, sec. 4.1). The paper prompts
for `<episode_1>` tags. Reasoning models separate episodes with blank lines on their own. Splitting by `tokens` needs
neither. Every thinking token is in exactly one episode, and the answer belongs to the last episode.

Tokenizers may fuse the blank line with what is before it: Qwen has 528 tokens such as `.\\n\\n`. Such a token belongs
to the episode that it ends. The decision to go on is the token after it, where `</think>` could have come instead, and
belongs to the next episode. So the probe of that prefix keeps the token and adds no line break of its own.
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
    """A batch of completions, split into episodes."""

    index_BT: Tensor
    """Each token's episode from 0, -1 on padding."""
    thinking_BT: Tensor
    """True before `</think>`; everywhere if the completion never closes its thinking."""
    word_BT: Tensor
    """True on thinking tokens that are not white space."""
    newline_BT: Tensor
    """True on tokens that end in a line break."""

    @property
    def count_B(self) -> Tensor:
        """Episodes of each completion; 1 without any thinking, 0 for a row of padding."""
        return self.index_BT.amax(1) + 1

    @property
    def tokens_BK(self) -> Tensor:
        """Thinking tokens of each episode, (B, K)."""
        counts_BK = self.index_BT.new_zeros(len(self.index_BT), max(int(self.index_BT.max()) + 1, 1))
        return counts_BK.scatter_add_(1, self.index_BT.clamp(min=0), self.thinking_BT.long())

    @property
    def stopped_BT(self) -> Tensor:
        """True after the last word of the thinking: on the white space and `</think>` that end it, and on the answer.

        Nowhere in a completion that stops without a word: it decided to stop where others decided on a first word.
        """
        position_T = torch.arange(1, self.index_BT.size(1) + 1, device=self.index_BT.device)
        last_B1 = (self.word_BT * position_T).amax(1, keepdim=True)
        return (position_T > last_B1) & (last_B1 > 0) & (self.index_BT >= 0)

    @property
    def ends_BK(self) -> Tensor:
        """Tokens up to the last word of each episode, (B, K); constant from a row's last episode on.

        White space after the word is left out, because the probe that stops the thinking there brings its own.
        """
        end_BT = self.word_BT * torch.arange(1, self.index_BT.size(1) + 1, device=self.index_BT.device)
        ends_BK = end_BT.new_zeros(len(end_BT), max(int(self.index_BT.max()) + 1, 1))
        return ends_BK.scatter_reduce(1, self.index_BT.clamp(min=0), end_BT, "amax").cummax(1).values

    @property
    def closed_BK(self) -> Tensor:
        """Whether the last word of each episode is fused with a line break, (B, K): a stop there needs no other."""
        ends_BK = self.ends_BK
        return self.newline_BT.gather(1, (ends_BK - 1).clamp(min=0)) & (ends_BK > 0)


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
        """A new episode starts, depending on `by`, at a blank line, an `<episode_i>` tag, or every `every` tokens.

        Raises:
            ValueError: `by` is unknown, or a limit is below 1.
        """
        if by not in get_args(SplitBy):
            raise ValueError(f"by must be one of {', '.join(get_args(SplitBy))}, got {by!r}")
        if max_episodes < 1 or every < 1:
            raise ValueError(f"max_episodes and every must be at least 1, got {max_episodes} and {every}")
        self._tokenizer, self._by, self._max, self._every = tokenizer, by, max_episodes, every
        self._end: int = tokenizer.convert_tokens_to_ids(THINK_END)
        texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], skip_special_tokens=False)
        self._blank_V = torch.tensor(["\n\n" in (text.lstrip() or text) for text in texts])
        self._begins_V = torch.tensor([bool(text.strip()) and "\n\n" in _indent(text) for text in texts])
        self._opens_V = torch.tensor([text.startswith("\n") for text in texts])
        self._closes_V = torch.tensor([text.endswith("\n") for text in texts])
        self._space_V = torch.tensor([text.isspace() for text in texts])

    def __call__(self, ids_BT: Tensor, mask_BT: Tensor) -> Episodes:
        """Split right-padded completions; the mask is 1 where there is a token; both are (B, T)."""
        mask_BT = mask_BT.bool()
        closed_BT = (ids_BT == self._end).cumsum(1) > 0
        thinking_BT = mask_BT & ~closed_BT
        word_BT = thinking_BT & ~_looked_up(self._space_V, ids_BT)
        starts_BT = getattr(self, f"_{self._by}")(ids_BT, word_BT) & thinking_BT
        starts_BT[:, :1] = False
        index_BT = starts_BT.cumsum(1)
        for row in (index_BT.amax(1) >= self._max).nonzero().flatten().tolist():
            index_BT[row] = _merged(index_BT[row], thinking_BT[row], self._max)
        return Episodes(index_BT.masked_fill(~mask_BT, -1), thinking_BT, word_BT, self._newlines(ids_BT))

    def _newlines(self, ids_BT: Tensor) -> Tensor:
        return _looked_up(self._closes_V, ids_BT)

    def _tokens(self, ids_BT: Tensor, _: Tensor) -> Tensor:
        position_T = torch.arange(ids_BT.size(1), device=ids_BT.device)
        return (position_T % self._every == 0).expand_as(ids_BT).clone()

    def _blank_line(self, ids_BT: Tensor, word_BT: Tensor) -> Tensor:
        """True at the start of white space that contains a blank line and is followed by a word.

        So the blank line, which is the decision to continue thinking, belongs to the episode that it opens. If it is
        fused with the word before it, it is True after that token; if with the word after it, at that token.
        """
        blank_BT, begins_BT = _looked_up(self._blank_V, ids_BT), _looked_up(self._begins_V, ids_BT)
        joined_BT = _looked_up(self._closes_V, ids_BT[:, :-1]) & _looked_up(self._opens_V, ids_BT[:, 1:])
        blank_BT[:, 1:] |= joined_BT & ~word_BT[:, 1:]
        begins_BT[:, 1:] |= joined_BT
        position_BT = torch.arange(ids_BT.size(1), device=ids_BT.device).expand_as(ids_BT)
        last_word_BT = torch.where(word_BT, position_BT, -1).cummax(1).values
        before_BT = torch.cat([torch.full_like(last_word_BT[:, :1], -1), last_word_BT[:, :-1]], 1)
        blanks_BT = torch.cat([torch.zeros_like(ids_BT[:, :1]), blank_BT.cumsum(1)], 1)  # before each position
        since_BT = blanks_BT[:, :-1] - blanks_BT.gather(1, before_BT.clamp(min=0))
        first_word_BT = word_BT & (before_BT >= 0) & ((since_BT > 0) | begins_BT)
        starts_BT = torch.zeros_like(word_BT)
        rows, columns = first_word_BT.nonzero(as_tuple=True)
        starts_BT[rows, before_BT[rows, columns] + 1] = True
        return starts_BT

    def _tags(self, ids_BT: Tensor, word_BT: Tensor) -> Tensor:
        """True at the token where `<episode_i>` begins; text before the first tag belongs to the first episode."""
        starts_BT = torch.zeros_like(word_BT)
        for row, (ids, word) in enumerate(zip(ids_BT.tolist(), word_BT, strict=True)):
            length = int(word.nonzero().max()) + 1 if word.any() else 0
            pieces: list[str] = self._tokenizer.convert_ids_to_tokens(ids[:length])
            pieces = [piece or "" for piece in pieces]  # a model may have more embeddings than its tokenizer has tokens
            offsets = [0, *accumulate(map(len, pieces))]
            for tag in list(_TAG.finditer("".join(pieces)))[1:]:
                starts_BT[row, bisect_right(offsets, tag.start()) - 1] = True
        return starts_BT


def _indent(text: str) -> str:
    """The white space before the first word."""
    return text[: len(text) - len(text.lstrip())]


def _looked_up(table_V: Tensor, ids_BT: Tensor) -> Tensor:
    """The table's entries; False for ids beyond the tokenizer's, because a model may have more embeddings."""
    table_V = table_V.to(ids_BT.device)
    return table_V[ids_BT.clamp(max=len(table_V) - 1)] & (ids_BT < len(table_V))


def _merged(index_T: Tensor, thinking_T: Tensor, most: int) -> Tensor:
    """The row in at most `most` episodes: the shortest is merged into its shorter neighbour until few enough remain."""
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
