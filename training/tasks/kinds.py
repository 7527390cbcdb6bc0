"""What kinds of answers are there? Words, choices, times, numbers with units, rows of answers, equations."""

from __future__ import annotations

from dataclasses import dataclass

from training.tasks.quantities import Unit

_NO_UNIT = Unit("")


@dataclass(frozen=True)
class Words:
    """Lower-case words without articles."""

    text: str


@dataclass(frozen=True)
class Choice:
    """A capital letter, such as the name of an option."""

    letter: str


@dataclass(frozen=True)
class Time:
    """A time of day or a duration in hours, minutes and seconds; `half` is `am`, `pm`, or empty."""

    hour: int
    minutes: tuple[int, ...]
    half: str


@dataclass(frozen=True)
class InBase:
    """Digits in a base, such as 204 in base 5."""

    digits: str
    base: int


@dataclass(frozen=True)
class Quantity:
    """A formula with its unit; `whole` is the text in which letters may be variables instead of a unit."""

    formula: str
    unit: Unit = _NO_UNIT
    whole: str = ""


@dataclass(frozen=True)
class Several:
    """Answers in a row. `how` is `list`, `union`, `ratio`, `matrix N` (with N columns), or the two brackets."""

    how: str
    items: tuple[Answer, ...]


@dataclass(frozen=True)
class Relation:
    """Two sides of `=`, `<` or `\\le`."""

    sign: str
    left: str
    right: str


@dataclass(frozen=True)
class Named:
    """What a name stands for, as in x = 5; `relation` has the sides as they were."""

    name: str
    value: Answer
    relation: Relation


@dataclass(frozen=True)
class Rounded:
    """A value and what it is rounded to."""

    exact: Answer
    rounded: Answer


Answer = Words | Choice | Time | InBase | Quantity | Several | Relation | Named | Rounded
