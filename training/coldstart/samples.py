"""What does the untrained model answer, and which of it is learned? Samples on disk as they come, with their traces.

A kill loses at most one block of questions: the same command goes on behind the last block that is complete.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from models.files import write_text
from training.coldstart import traces
from training.coldstart.traces import Trace
from training.recipe_base import ColdStart
from training.rollouts.params import SamplingParams
from training.tasks.question import Question
from training.tasks.source import with_instruction
from training.tasks.verify import is_correct

Sampler = Callable[[Sequence[Sequence[int]], SamplingParams], list[list[int]]]
"""Completions of prompts, as token ids, grouped by prompt; each includes its eos if it ended by itself."""
BLOCK = 32
"""Questions that are asked and stored together."""
FORCED_TOKENS = 32
"""The longest rest of a stated answer, after thinking that a budget ended."""


@dataclass(frozen=True)
class Drawn:
    """What one question gave."""

    question: str
    correct: int
    """How many completions were right."""
    tokens: int
    """Of all completions together."""
    traces: tuple[Trace, ...]


def draw(
    questions: Sequence[Question],
    tokenizer: PreTrainedTokenizerBase,
    stage: ColdStart,
    sample: Sampler,
    path: Path,
    *,
    max_tokens: int,
    seed: int,
    on_block: Callable[[int], None] = lambda _: None,
) -> list[Drawn]:
    """Ask all questions, and make traces of the right answers, some with thinking that a budget ends.

    Args:
        questions: of the training split; each is asked as `asked` says.
        tokenizer: the untrained model's.
        stage: what to draw and keep.
        sample: the untrained model.
        path: a file of JSON lines, one for each question.
        max_tokens: the longest completion.
        seed: each block's seed follows from it, so that an interrupted run gives the same samples.
        on_block: receives the number of questions that are done.
    """
    done = read(path)
    done = done[: len(done) // BLOCK * BLOCK]
    write_text(path, "".join(_line(drawn) for drawn in done))
    for start in range(len(done), len(questions), BLOCK):
        block = questions[start : start + BLOCK]
        drawn = _Block(block, tokenizer, stage, sample, seed + start).draw(max_tokens)
        with path.open("a") as file:
            file.writelines(map(_line, drawn))
        done += drawn
        on_block(len(done))
    return done


def asked(tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question], stage: ColdStart) -> list[list[int]]:
    """Token ids of each question as the untrained model is asked: behind the examples, with the instruction."""
    turns: list[dict[str, str]] = []
    for example in stage.examples:
        stated = stage.answer.replace("{}", example.answer)
        turns += _turn("user", f"{example.question}\n{stage.instruction}")
        turns += _turn("assistant", f"{example.thinking}\n\n{stated}")
    return tokenizer.apply_chat_template(
        [[*turns, *_turn("user", question.prompt)] for question in with_instruction(questions, stage.instruction)],
        add_generation_prompt=True,
        return_dict=False,
    )


def _turn(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


def read(path: Path) -> list[Drawn]:
    """What the file has, up to a line that a kill truncated."""
    return list(_read(path)) if path.exists() else []


def _read(path: Path) -> Iterator[Drawn]:
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            return
        yield Drawn(**{**row, "traces": tuple(Trace(**trace) for trace in row["traces"])})


def _line(drawn: Drawn) -> str:
    return f"{json.dumps(asdict(drawn))}\n"


class _Block:
    """Some questions that are asked together."""

    def __init__(
        self,
        questions: Sequence[Question],
        tokenizer: PreTrainedTokenizerBase,
        stage: ColdStart,
        sample: Sampler,
        seed: int,
    ) -> None:
        self._questions, self._tokenizer, self._stage, self._sample = questions, tokenizer, stage, sample
        self._seed, self._rng = seed, random.Random(f"cold start/{seed}")
        self._prompts = asked(tokenizer, questions, stage)

    def draw(self, max_tokens: int) -> list[Drawn]:
        stage = self._stage
        params = SamplingParams(max_tokens, stage.temperature, stage.samples, self._seed)
        completions = self._sample(self._prompts, params)
        rows: list[Drawn] = []
        for at, question in enumerate(self._questions):
            own = completions[at * stage.samples : (at + 1) * stage.samples]
            ended = [self._text(ids) for ids in own if ids and ids[-1] == self._tokenizer.eos_token_id]
            right = traces.right_ones(question.prompt, ended, question.answer, stage)
            correct = sum(is_correct(text, question.answer) for text in ended)
            rows.append(Drawn(question.prompt, correct, sum(map(len, own)), tuple(right)))
        return self._with_forced(rows)

    def _with_forced(self, rows: list[Drawn]) -> list[Drawn]:
        """The same, with traces whose thinking a budget ends, where the model's own answer from there is right."""
        chosen = [
            (at, replace(trace, thinking=self._cut(trace.thinking), forced=True))
            for at, row in enumerate(rows)
            for trace in row.traces
            if self._rng.random() < self._stage.forced
        ]
        if not chosen:
            return rows
        stop = f"\n\n{self._stage.answer.partition('{}')[0]}"
        prompts = [self._prompts[at] + self._ids(f"{trace.thinking}{stop}") for at, trace in chosen]
        answers = self._sample(prompts, SamplingParams(FORCED_TOKENS, 0.0, 1, self._seed))
        for (at, trace), answer in zip(chosen, answers, strict=True):
            if is_correct(f"{stop}{self._text(answer)}", self._questions[at].answer):
                rows[at] = replace(rows[at], traces=(*rows[at].traces, trace))
        return rows

    def _cut(self, thinking: str) -> str:
        return self._tokenizer.decode(traces.cut_at_a_budget(self._ids(thinking), self._rng))

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _text(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)
