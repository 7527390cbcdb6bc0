"""Is every number on the page the API's? Its formats, written a second time, and what of the page is no number."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

DASH = "\N{EN DASH}"

FIGURES = """() => [...document.querySelectorAll("[data-path]")].map((one) =>
    [one.dataset.path, one.dataset.format, one.textContent])"""
"""Every figure on the page: its place in the overview, its format, its text."""

OTHER_DIGITS = """() => {
    const texts = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const parent = walker.currentNode.parentElement;
        if (/[0-9]/.test(walker.currentNode.data) && !parent.closest("[data-path], .uplot, noscript, code"))
            texts.push(walker.currentNode.data.trim());
    }
    return texts;
}"""
"""Every text with a digit that is no figure."""


def at(overview: Any, path: str) -> Any:
    """The value at a JSON pointer; None if there is none."""
    for part in path.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(overview, list):
            overview = overview[int(name)] if int(name) < len(overview) else None
        else:
            overview = overview.get(name) if isinstance(overview, dict) else None
    return overview


def text(value: Any, form: str) -> str:
    """The value as the page should show it."""
    return DASH if value is None or value in ("", []) else _FORMATS[form](value)


def _count(value: float) -> str:
    return f"{int(fixed(value, 0)):,}"


def _points(value: float) -> str:
    points = fixed(100 * value, 1)
    return f"+{points}" if points.strip("0.") and not points.startswith("-") else points


def _money(value: float) -> str:
    return fixed(value, 4) if value and abs(value) < 1 else f"{Decimal(fixed(value, 2)):,}"


def fixed(value: float, digits: int) -> str:
    """The exact value of the number, rounded half away from zero, without a minus before a zero."""
    return str(Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP) + 0)


_FORMATS: dict[str, Callable[[Any], str]] = {
    "count": _count,
    "share": lambda value: f"{fixed(100 * value, 1)} %",
    "points": _points,
    "decimal": lambda value: fixed(value, 3),
    "money": _money,
    "time": lambda value: datetime.fromtimestamp(int(value), UTC).strftime("%Y-%m-%d %H:%M:%S"),
    "list": ", ".join,
    "plain": lambda value: str(int(value)) if value == int(value) else str(value),
    "text": str,
}
