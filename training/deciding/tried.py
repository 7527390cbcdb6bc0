"""What would thinking on have brought? First passes of a checkpoint, which the base continues, with the value of each.

A checkpoint that mostly stops after its first pass never sees what a check is worth, and its own checks have decayed.
So each first pass is cut where it ends, a blank line is put there, and the base thinks on from it. The dense reward's
probe says how probable the right answer is after each episode.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.files import write_text
from training.rewards.decisions import opening_tokens
from training.rewards.dense import EpisodeGrader
from training.rollouts.batch import Rollouts
from training.rollouts.forks import with_blank_line
from training.rollouts.params import SamplingParams
from training.rollouts.sample import encoded, sample
from training.tasks.question import Question

BLOCK = 250
"""Questions that are asked and stored together."""


@dataclass(frozen=True)
class Tried:
    """One question's first pass, and how the base went on."""

    prompt: list[int]
    """Token ids of the prompt."""
    ids: list[int]
    """Token ids of the completion: first pass, blank line, what the base wrote."""
    opens: list[int]
    """Where in `ids` the token stands that opens the second episode, the third, ..."""
    success: list[float]
    """P(right answer) if thinking stopped after the first episode, the second, ..."""
    tokens: list[int]
    """Thinking tokens of each episode."""


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
        """Ask all questions; one whose first pass does not end, or whose continuation does not, is left out.

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
        room = self.max_tokens - max(len(ids) for ids, _ in begun)
        prompts, golds = [prompts[i] for i in rows], [questions[i].answer for i in rows]
        onward = [prompt + ids for prompt, (ids, _) in zip(prompts, begun, strict=True)]
        continued = sample(self.base, onward, SamplingParams(room, 1.0), eos=eos)
        rollouts = [ids + more for (ids, _), more in zip(begun, continued, strict=True)]
        found = self._valued(prompts, rollouts, golds, [own for _, own in begun])
        return [tried for tried in found if tried.ids[-1] == eos and len(tried.success) > 1]

    def _valued(
        self,
        prompts: Sequence[list[int]],
        rollouts: Sequence[list[int]],
        golds: Sequence[str],
        opened: Sequence[int],
    ) -> list[Tried]:
        """The rollouts with the value of each episode; `opened` says where the second episode of each was opened."""
        values = self.grader(self.base, Rollouts.padded(prompts, rollouts, self.base.device), golds)
        opens_BT, tokens_BK = opening_tokens(values.episodes.index_BT), values.episodes.tokens_BK
        counts = values.episodes.count_B.tolist()
        return [
            Tried(
                prompt,
                ids,
                [opened[i], *opens_BT[i].nonzero().flatten().tolist()[1:]],
                [round(value, 5) for value in values.success_BK1[i, 1 : counts[i] + 1].tolist()],
                tokens_BK[i, : counts[i]].tolist(),
            )
            for i, (prompt, ids) in enumerate(zip(prompts, rollouts, strict=True))
        ]


def read(path: Path) -> Iterator[list[Tried]]:
    """The blocks in the file, up to a line that a kill truncated."""
    for line in path.read_text().splitlines():
        try:
            rows = json.loads(line)
        except ValueError:
            return
        yield [Tried(**row) for row in rows]


def _line(block: Sequence[Tried]) -> str:
    return json.dumps([asdict(tried) for tried in block]) + "\n"
