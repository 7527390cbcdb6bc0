"""How is a table written in Markdown?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.figures import render


def or_dash(value: Any, how: str) -> str:
    """A value as text; a dash for None."""
    return "-" if value is None else render(value, how)


def percent(value: float) -> str:
    """A share with one decimal."""
    return render(value, "%1")


def bold(text: str, bold: bool) -> str:
    """The text, bold if it is to be."""
    return f"**{text}**" if bold else text


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of these heads and rows."""
    return "\n".join(
        [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}", *(f"| {' | '.join(row)} |" for row in rows)]
    )


def machine_table(about: Mapping[str, Any]) -> str:
    """What `benchmarks.machine` says of a machine, as a table."""
    shown = {**about, "instruction sets": ", ".join(about["instruction sets"] or ())}
    return table(list(shown), [[str(value) if value else "not recorded" for value in shown.values()]])
