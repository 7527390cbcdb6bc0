"""What does `laconic route` ask? A text, or a file with messages or a whole request, read as the gateway reads it."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from gateway.config import ConfigError
from gateway.errors import ApiError, BadRequestError
from gateway.request import budget
from gateway.request import question as questions
from gateway.request.budget import Budget
from gateway.request.question import Question
from models.family import Family
from models.field import one_line
from models.files import MIB, read_bounded

MAX_MESSAGES_BYTES = 64 * MIB


@dataclass(frozen=True)
class Asked:
    """What a question asks for besides an answer, sent without a key."""

    pinned: str | None
    budget: Budget


@dataclass(frozen=True)
class Flags:
    """What the command line says of the request; it wins over the file. None: nothing."""

    checkpoint: str | None
    budget: str | None

    def getlist(self, key: str) -> list[str]:
        """The request's headers: `--budget` stands for one."""
        return [self.budget] if self.budget is not None and key == budget.HEADER else []


def read(question: Question, flags: Flags, default_budget: str, family: Family) -> Asked:
    """The request that asks the question.

    Raises:
        ConfigError: the model is none of the family's, or a budget is malformed.
    """
    names = frozenset(checkpoint.name for checkpoint in family.checkpoints)
    try:
        pinned = flags.checkpoint or questions.pinned_checkpoint(question.model, family, names)
        able = {pinned} if pinned else names
        found = budget.agree(flags, question.body, default_budget, family, names=able, max_tokens=question.max_tokens)
    except ApiError as error:
        named = "--messages: " if error.param != budget.HEADER else ""
        raise ConfigError(f"{named}{error.message.replace(budget.HEADER, '--budget')}") from None
    return Asked(pinned, replace(found, source="--budget") if found.source == budget.HEADER else found)


def question(text: str | None, file: str | None, family: Family, opened: Collection[str]) -> Question:
    """The text as a question, or the one in the file.

    Raises:
        ConfigError: the file cannot be read, or is not what a chat request may be.
    """
    asked: object = [{"role": "user", "content": text}]
    if file is not None:
        try:
            asked = json.loads(sys.stdin.buffer.read() if file == "-" else read_bounded(Path(file), MAX_MESSAGES_BYTES))
        except OSError as error:
            raise ConfigError(f"--messages: cannot read {file} ({error.strerror})") from None
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"--messages: {file} is not JSON ({one_line(str(error))})") from None
    body = cast("dict[str, object]", asked) if isinstance(asked, dict) else {"messages": asked}
    try:
        return questions.parse(json.dumps({"model": family.name, **body}).encode(), opened)
    except BadRequestError as error:
        raise ConfigError(f"--messages: {error.message}") from None
