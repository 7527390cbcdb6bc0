"""Which field did pydantic reject? Its name, fit for a message of one line."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import ValidationError


def path_of(loc: Iterable[int | str]) -> str:
    """The path of a rejected field, joined by dots. Keys from a file may contain line breaks; the result has none."""
    return " ".join(".".join(map(str, loc)).split())


def first_error(error: ValidationError) -> tuple[str, str]:
    """The path of the first rejected field, and what is wrong with it, without pydantic's prefix."""
    first = error.errors()[0]
    return path_of(first["loc"]), first["msg"].removeprefix("Value error, ")
