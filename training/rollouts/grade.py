"""Is a rollout correct, and how long did it think? Its answer, the end of its thinking, and its episodes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from training.config import DenseReward
from training.job.checkpoints import THINK_END
from training.rollouts.episodes import Episodes, Splitter
from training.tasks.outcome import Outcome
from training.tasks.verify import final_answer, is_correct

_NO_LIMIT = 10**6


class Grader:
    """Grades completions of one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, dense: DenseReward | None = None) -> None:
        """Episodes are split as `dense` says, but without its limit on their number; by default at blank lines."""
        dense = dense or DenseReward()
        self._tokenizer = tokenizer
        self._end = tokenizer.convert_tokens_to_ids(THINK_END)
        self._eos = tokenizer.eos_token_id
        self._split = Splitter(tokenizer, dense.split_by, max_episodes=_NO_LIMIT, every=dense.tokens_per_episode)

    def __call__(self, completion: Sequence[int], gold: str) -> Outcome:
        """Grade one completion. It is incorrect if it was truncated or never closed its thinking.

        Truncation shows in the sampled tokens, to which no eos has been added (arXiv 2502.04463, sec. 4).
        """
        ids = list(completion)
        finished = bool(ids) and ids[-1] == self._eos
        thought = ids.index(self._end) if self._end in ids else len(ids)
        answer = self._tokenizer.decode(ids[thought + 1 :], skip_special_tokens=True)
        return Outcome(
            correct=finished and thought < len(ids) and is_correct(answer, gold),
            reasoning_tokens=thought,
            tokens=len(ids),
            episodes=self._episodes(ids),
            finished=finished,
        )

    def explained(self, completion: Sequence[int], gold: str) -> str:
        """What the grader saw in a completion, in words, such as `answered '41', the gold answer is '42'`."""
        ids = list(completion)
        if not ids or ids[-1] != self._eos:
            return f"was cut off after {len(ids)} tokens"
        if self._end not in ids:
            return f"never closed its thinking with {THINK_END}"
        answer = self._tokenizer.decode(ids[ids.index(self._end) + 1 :], skip_special_tokens=True).strip()
        stated = final_answer(answer)
        seen = f"answered {stated[:60]!r}" if stated is not None else f"marked no answer in {answer[-60:]!r}"
        return f"{seen}, the gold answer is {gold[:60]!r}"

    def _episodes(self, ids: list[int]) -> int:
        return max(1, int(self._split_one(ids).count_B[0])) if ids else 1

    def _split_one(self, ids: list[int]) -> Episodes:
        ids_1T = torch.tensor([ids])
        return self._split(ids_1T, torch.ones_like(ids_1T))

    def budget_forced(self, completion: Sequence[int], budget: int) -> list[int]:
        """The first `budget` tokens of a completion's thinking, closed, as the start of a budget-forced answer."""
        return [*completion[:budget], self._end]

    def after_first_episode(self, completion: Sequence[int]) -> list[int]:
        """The completion up to the end of its first episode, thinking closed, as the start of an answer.

        It is the prefix that the first probe of the dense reward sees: a line break is added unless it has one.
        """
        ids = list(completion)
        if self._episodes(ids) == 1:
            return self.budget_forced(ids, ids.index(self._end) if self._end in ids else len(ids))
        episodes = self._split_one(ids)
        newline = [] if episodes.closed_BK[0, 0] else self._tokenizer.encode("\n", add_special_tokens=False)
        return [*ids[: int(episodes.ends_BK[0, 0])], *newline, self._end]
