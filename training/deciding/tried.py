"""What would thinking on have brought? First passes of a checkpoint, which the base continues, with the value of each.

A checkpoint that mostly stops after its first pass never sees what a check is worth, and its own checks have decayed.
So each first pass is cut where it ends, a blank line is put there, and the base thinks on from it. The dense reward's
probe says how probable the right answer is after each episode.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.files import write_text
from training.recipe_deciding import TRIES
from training.rewards.decisions import opening_tokens
from training.rewards.dense import EpisodeGrader
from training.rollouts.batch import Rollouts
from training.rollouts.forks import with_blank_line
from training.rollouts.params import SamplingParams
from training.rollouts.sample import encoded, sample
from training.tasks.question import Question

VERSION = 1
"""Bump when tries of the same inputs become others."""
BLOCK = 250
"""Questions that are asked and stored together."""
KEPT = 0.05
"""Share of the right passes from which the base thinks on. It mostly repeats them."""


@dataclass(frozen=True)
class Attempt:
    """How the base thought on from a first pass."""

    ids: list[int]
    """Token ids behind the blank line."""
    opens: list[int]
    """Where in the whole completion the token stands that opens the third episode, the fourth, ..."""
    success: list[float]
    """P(right answer) if thinking stopped after the second episode, the third, ..."""
    tokens: list[int]
    """Thinking tokens of each of them."""


@dataclass(frozen=True)
class Tried:
    """One question's first pass, and what came of thinking on."""

    prompt: list[int]
    """Token ids of the prompt."""
    ids: list[int]
    """Token ids of the pass and the blank line."""
    opened: int
    """Where in `ids` the token stands that opens the second episode."""
    success: float
    """P(right answer) if thinking stopped after the pass."""
    tokens: int
    """Thinking tokens of the pass."""
    attempts: list[Attempt]
    """None of most right passes."""

    @property
    def right(self) -> bool:
        """Whether the pass has the right answer."""
        return self.success > 0.5


@dataclass(frozen=True)
class Trial:
    """Who tries: a checkpoint writes first passes, the base thinks on from them."""

    checkpoint: PreTrainedModel
    base: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    """Of both."""
    grader: EpisodeGrader
    """Splits and values the episodes."""
    max_tokens: int
    """Longest completion."""

    def draw(
        self, questions: Sequence[Question], path: Path, *, seed: int, on_block: Callable[[int], None] = lambda _: None
    ) -> list[Tried]:
        """Ask all questions; one whose first pass does not end is left out, and a wrong one that is never continued.

        A kill loses at most one block: the same call goes on behind the last that is complete.

        Args:
            questions: of the training split.
            path: a file with a JSON line a block.
            seed: each block's seed follows from it.
            on_block: receives the number of questions that are done.
        """
        blocks = list(read(path)) if path.exists() else []
        write_text(path, "".join(map(_line, blocks)))
        on_block(min(len(questions), len(blocks) * BLOCK))
        for start in range(len(blocks) * BLOCK, len(questions), BLOCK):
            block = self._block(questions[start : start + BLOCK], seed + start)
            with path.open("a") as file:
                file.write(_line(block))
            blocks.append(block)
            on_block(min(len(questions), start + BLOCK))
        return [tried for block in blocks for tried in block]

    def _block(self, questions: Sequence[Question], seed: int) -> list[Tried]:
        questions = sorted(questions, key=lambda question: len(question.prompt))  # similar lengths finish together
        eos: Any = self.tokenizer.eos_token_id
        prompts = encoded(self.tokenizer, questions)
        passes = sample(self.checkpoint, prompts, SamplingParams(self.max_tokens, 1.0, seed=seed), eos=eos)
        batch = Rollouts.padded(prompts, passes, self.checkpoint.device)
        ends = self.grader.split(batch.completion_ids_BT, batch.completion_mask_BT).ends_BK[:, 0].tolist()
        # Half of the room at most, so that another episode fits.
        rows = [i for i, ids in enumerate(passes) if ids[-1] == eos and 0 < 2 * ends[i] <= self.max_tokens]
        if not rows:
            return []
        begun = [with_blank_line(self.tokenizer, passes[i], ends[i]) for i in rows]
        prompts, golds = [prompts[i] for i in rows], [questions[i].answer for i in rows]
        cut = [ids[:own] for ids, own in begun]
        values = self.grader(self.base, Rollouts.padded(prompts, cut, self.base.device), golds)
        success = [round(value, 5) for value in values.success_BK1[:, 1].tolist()]
        tokens = values.episodes.tokens_BK[:, 0].tolist()
        found = [
            Tried(prompt, ids, own, success[i], tokens[i], [])
            for i, (prompt, (ids, own)) in enumerate(zip(prompts, begun, strict=True))
        ]
        rng = random.Random(f"tried/{seed}")
        tries = [1 if one.right and rng.random() < KEPT else 0 if one.right else TRIES for one in found]
        again = [i for i, count in enumerate(tries) for _ in range(count)]
        for i, attempt in zip(again, self._attempts([found[i] for i in again], [golds[i] for i in again]), strict=True):
            if attempt is not None:
                found[i].attempts.append(attempt)
        return [one for one in found if one.right or one.attempts]

    def _attempts(self, begun: Sequence[Tried], golds: Sequence[str]) -> list[Attempt | None]:
        """Let the base think on from each; None where it does not come to an end, or stops at once."""
        if not begun:
            return []
        eos: Any = self.tokenizer.eos_token_id
        room = self.max_tokens - max(len(one.ids) for one in begun)
        continued = sample(self.base, [one.prompt + one.ids for one in begun], SamplingParams(room, 1.0), eos=eos)
        whole = [one.ids + ids for one, ids in zip(begun, continued, strict=True)]
        values = self.grader(self.base, Rollouts.padded([one.prompt for one in begun], whole, self.base.device), golds)
        opens_BT, tokens_BK = opening_tokens(values.episodes.index_BT), values.episodes.tokens_BK
        counts = values.episodes.count_B.tolist()
        return [
            Attempt(
                ids,
                opens_BT[i].nonzero().flatten().tolist()[1:],
                [round(value, 5) for value in values.success_BK1[i, 2 : counts[i] + 1].tolist()],
                tokens_BK[i, 1 : counts[i]].tolist(),
            )
            if ids[-1] == eos and counts[i] > 1
            else None
            for i, ids in enumerate(continued)
        ]


def read(path: Path) -> Iterator[list[Tried]]:
    """The blocks in the file, up to a line that a kill truncated."""
    for line in path.read_text().splitlines():
        try:
            rows = json.loads(line)
        except ValueError:
            return
        yield [Tried(**{**row, "attempts": [Attempt(**one) for one in row["attempts"]]}) for row in rows]


def _line(block: Sequence[Tried]) -> str:
    return json.dumps([asdict(tried) for tried in block]) + "\n"
