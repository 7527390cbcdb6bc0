"""How are the fields of another surface's request read? Each is checked, and an error names it by its path."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast

from gateway.errors import BadRequestError

Json = dict[str, Any]


def only(holder: Mapping[str, Any], known: Collection[str], path: str = "") -> None:
    """Check that there are no other fields, unless they are null.

    Raises:
        BadRequestError: names the first one.
    """
    for name, value in holder.items():
        if name not in known and value is not None:
            field = f"{path}{name}"
            shown = field if len(field) <= 100 else f"{field[:100]}..."
            raise BadRequestError(
                f"{shown}: this gateway does not accept this field here. Leave it out, or correct its name.",
                shown,
                code="field_not_allowed",
            )


def text(value: object, path: str) -> str:
    """A string, or a 400."""
    if not isinstance(value, str):
        raise wrong(path, "a string", value)
    return value


def obj(value: object, path: str) -> Json:
    """An object, or a 400."""
    if not isinstance(value, dict):
        raise wrong(path, "an object", value)
    return cast("Json", value)


def objs(value: object, path: str) -> list[Json]:
    """A list of objects, or a 400."""
    return [obj(item, f"{path}[{at}]") for at, item in enumerate(items(value, path))]


def items(value: object, path: str) -> list[object]:
    """A list, or a 400."""
    if not isinstance(value, list):
        raise wrong(path, "a list", value)
    return cast("list[object]", value)


def one_of(value: object, names: Collection[str], path: str) -> str:
    """One of these strings, or a 400."""
    if not isinstance(value, str) or value not in names:
        raise wrong(path, f"one of {', '.join(names)}", value)
    return value


def whole(value: object, path: str, least: int, most: int) -> int:
    """A whole number in this range, or a 400."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise wrong(path, f"a whole number from {least} to {most}", value)
    return value


def wrong(path: str, expected: str, got: object) -> BadRequestError:
    """400: this field must be something else."""
    return BadRequestError(f"{path} must be {expected}, got {str(got)[:40]!r}", path)
