"""At which levels is a model measured? Each becomes a checkpoint: a model's name and what is put into its requests.

    --levels off,512,2048,max       thinking off; capped at 512 and 2,048 tokens; as the engine has it
    --levels low,medium,high        the engine's `reasoning_effort`
    --levels levels.toml            anything else: other models, system prompts, sampling presets

A TOML file has a table for each level, from the one that thinks least to the one that thinks most:

    [brief]
    system = "Answer with the number alone."
    [steps]
    body = {reasoning_effort = "low"}
    [large]
    model = "Qwen/Qwen3-32B"
    budget = 2048
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.family import NAME_PATTERN
from models.field import first_error
from models.overrides import Overrides
from training.errors import StageError

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")
_OFF = Overrides(body={"chat_template_kwargs": {"enable_thinking": False}})


@dataclass(frozen=True)
class Level:
    """One level of one model."""

    name: str
    model: str
    """The engine's name for it."""
    overrides: Overrides = field(default_factory=Overrides)
    budget: int | None = None
    """The most reasoning tokens at this level; None for no cap."""

    @property
    def thinks(self) -> bool:
        """Whether thinking is left on."""
        kwargs = self.overrides.body.get("chat_template_kwargs")
        return not (isinstance(kwargs, dict) and kwargs.get("enable_thinking") is False)


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    model: str | None = Field(default=None, min_length=1)
    system: str | None = None
    suffix: str | None = None
    body: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    budget: int | None = Field(default=None, ge=1)


def parse(text: str, model: str) -> list[Level]:
    """Return the levels that `--levels` names, in its order.

    Args:
        text: names and numbers joined by commas, or the path of a TOML file.
        model: the engine's name for the model, for levels that name none.

    Raises:
        StageError: a level is unknown, given twice, or the only one; or the file cannot be used. Names the level.
    """
    levels = _from_file(Path(text), model) if text.endswith(".toml") else [_named(word, model) for word in _words(text)]
    names = [level.name for level in levels]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise StageError(f"--levels: {twice[0]} is given twice")
    if len(levels) < 2:
        raise StageError("--levels: one level leaves nothing to choose; give at least two, such as off,max")
    return levels


def reference(levels: Sequence[Level]) -> Level:
    """The level that savings are measured against: the last one, which thinks most."""
    return levels[-1]


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _named(word: str, model: str) -> Level:
    if word == "off":
        return Level("off", model, _OFF)
    if word in ("max", "auto"):
        return Level(word, model)
    if word in EFFORTS:
        return Level(word, model, Overrides(body={"reasoning_effort": word}))
    if re.fullmatch(r"[1-9][0-9]{0,6}", word):
        return Level(f"budget-{word}", model, budget=int(word))
    raise StageError(
        f"--levels: {word!r} is neither off, max, a number of tokens, a .toml file nor an effort: {', '.join(EFFORTS)}"
    )


def _from_file(path: Path, model: str) -> list[Level]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise StageError(f"--levels: cannot read {path} ({error.strerror})") from None
    except ValueError as error:
        raise StageError(f"--levels: {path} is not TOML ({error})") from None
    return [_from_table(path, name, table, model) for name, table in tables.items()]


def _from_table(path: Path, name: str, table: object, model: str) -> Level:
    if not re.fullmatch(NAME_PATTERN, name):
        raise StageError(f"--levels: {path}: {name!r}: use lower-case letters, digits, dots and dashes")
    try:
        parsed = _Table.model_validate(table)
        overrides = Overrides(body=parsed.body, defaults=parsed.defaults, system=parsed.system, suffix=parsed.suffix)
    except ValidationError as error:
        wrong, reason = first_error(error)
        raise StageError(f"--levels: {path}: {name}.{wrong}: {reason}") from None
    return Level(name, parsed.model or model, overrides, parsed.budget)
