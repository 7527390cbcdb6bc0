"""Which field did pydantic reject? Its name, fit for a message of one line."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import ValidationError

MOST = 200


def path_of(loc: Iterable[int | str]) -> str:
    """The path of a rejected field, joined by dots. Keys from a file may contain line breaks; the result has none."""
    return one_line(".".join(map(str, loc)))


def one_line(text: str) -> str:
    """Text from a file, fit for a message: at most `MOST` characters, all of them printable, in one line."""
    line = " ".join(text[: 2 * MOST].split())
    shown = "".join(character if character.isprintable() else "?" for character in line)
    return shown if len(shown) <= MOST and len(text) <= 2 * MOST else f"{shown[: MOST - 3]}..."


def first_error(error: ValidationError) -> tuple[str, str]:
    """The path of the first rejected field, and what is wrong with it, without pydantic's prefix."""
    first = error.errors()[0]
    return path_of(first["loc"]), one_line(first["msg"].removeprefix("Value error, "))
