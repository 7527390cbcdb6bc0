"""How does a page name the source of its figures? By an invisible marker behind each, and one around each table.

    The gateway's choice is right in 93.1 %<!-- =routing unlimited.checkpoints.auto.accuracy.mean %1 --> of questions.

    <!-- begin: routing -->
    (a table of `benchmarks.tables`)
    <!-- end: routing -->

A figure's marker has a source of `benchmarks.sources`, a path in it, and a format: `%1` is percent with one decimal,
`.2` a number with two, `,0` one with its thousands separated, `+1` one with its sign, `p1` percentage points with sign
and unit, `P1` without the unit. A figure with an interval is written with it. `make generated` writes the figure again
from its source. GitHub and MkDocs show neither kind of marker, unless a figure's marker begins a line: that is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from statistics import median
from typing import Any

from benchmarks.sources import Sources, UnknownFigureError
from models.family import Estimate

_NUMBER = r"[+-]?\d[\d,]*(?:\.\d+)?"
_WITH_UNIT = rf"{_NUMBER}(?:\s%|\spoints)?"
_FIGURE = re.compile(
    rf"(?<![\w.,+-])(?P<text>{_WITH_UNIT}(?:\s\({_NUMBER}\sto\s{_NUMBER}\))?)"
    r"<!-- =(?P<source>[a-z0-9-]+) (?P<path>[^<>]+?) (?P<format>\S+) -->"
)
_MARKER = re.compile(r"(?P<before>.?)<!-- =(?P<marker>[^>]*)-->")
_BLOCK = re.compile(r"<!-- begin: (?P<name>[a-z0-9-]+) -->\n(?P<table>.*?)<!-- end: (?P=name) -->", re.DOTALL)
_BEGIN = re.compile(r"<!-- begin: (?P<name>[a-z0-9-]+) -->")
_SEVERAL = {("mean", "low", "high"), ("median", "least", "most")}


class MarkerError(ValueError):
    """A marker that cannot be filled in; the message quotes it."""


def render(value: Any, how: str) -> str:
    """A number, or an estimate with its interval, in a format such as `%1`.

    Raises:
        MarkerError: the value is no number, or there is no such format.
    """
    if isinstance(value, Estimate):
        value = value.model_dump()
    if isinstance(value, Mapping):
        keys = next((keys for keys in _SEVERAL if set(keys) <= value.keys()), None)
        if keys is None:
            raise MarkerError(f"{', '.join(value)} is no figure")
        middle, low, high = (_number(value[key], how) for key in keys)
        return f"{middle}{_unit(how)} ({low} to {high})"
    return f"{_number(value, how)}{_unit(how)}"


def _number(value: Any, how: str) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MarkerError(f"{value!r} is no number")
    kind, digits = how[:1], how[1:]
    formats = {"%": ".{}f", ".": ".{}f", ",": ",.{}f", "+": "+.{}f", "p": "+.{}f", "P": "+.{}f"}
    if kind not in formats or not digits.isdigit():
        raise MarkerError(f"{how!r} is no format; %1, .2, ',0', +1, p1 and P1 are")
    text = format(100 * value if kind in "%pP" else value, formats[kind].format(digits))
    return text if text.strip("+-0.,") else text.lstrip("+-")  # a rounded 0 has no sign


def _unit(how: str) -> str:
    return {"%": " %", "p": " points"}.get(how[:1], "")


def filled(page: str, sources: Sources, tables: Mapping[str, Callable[[Sources], str]]) -> str:
    """The page with every marked figure and table as its source has it now.

    Raises:
        MarkerError: a marker begins a line, has no figure before it, or names nothing that there is.
    """
    for match in _MARKER.finditer(page):
        if not match["before"]:
            raise MarkerError(f"<!-- ={match['marker']}--> begins a line")
    marked = len(_MARKER.findall(page))
    if marked != len(_FIGURE.findall(page)):
        behind = {match.end() for match in _FIGURE.finditer(page)}
        lost = next(match["marker"] for match in _MARKER.finditer(page) if match.end() not in behind)
        raise MarkerError(f"<!-- ={lost}--> is not behind a figure, or is not SOURCE PATH FORMAT")
    page = _FIGURE.sub(lambda match: _figure(match, sources), page)
    if len(_BEGIN.findall(page)) != len(_BLOCK.findall(page)):
        raise MarkerError(f"one of {', '.join(_BEGIN.findall(page))} has no end")
    return _BLOCK.sub(lambda match: _block(match["name"], sources, tables), page)


def _figure(match: re.Match[str], sources: Sources) -> str:
    source, path, how = match["source"], match["path"], match["format"]
    try:
        text = render(sources.value(source, path), how)
    except UnknownFigureError as error:
        raise MarkerError(str(error)) from None
    if " ".join(match["text"].split()) == text:
        text = match["text"]  # a line break inside stays
    return f"{text}<!-- ={source} {path} {how} -->"


def _block(name: str, sources: Sources, tables: Mapping[str, Callable[[Sources], str]]) -> str:
    if name not in tables:
        raise MarkerError(f"table {name} is none of {', '.join(tables)}")
    return f"<!-- begin: {name} -->\n\n{tables[name](sources)}\n\n<!-- end: {name} -->"


_NOT_PROSE = [
    re.compile(pattern, re.DOTALL | re.MULTILINE)
    for pattern in (
        r"^(?P<fence>```|~~~).*?^(?P=fence)",  # fenced code
        r"(?:(?<=\n\n)|\A)(?: {4}[^\n]*(?:\n|\Z)|\n)+",  # indented code
        _BLOCK.pattern,
        _FIGURE.pattern,
        r"<!--.*?-->",
        r"`[^`\n]*`",
        r"\]\([^)]*\)",  # where links lead
        r"arXiv\s\d{4}\.\d{5}",
        r"\balpha[ -]\d[\d.]*\d|\balpha[ -]\d",  # names of checkpoints and levels
    )
]
_MEASUREMENT = re.compile(
    r"(?<![\w.])(?:"
    r"[+-]?\d[\d,]*(?:\.\d+)? ?%"
    r"|[+-]?\d*\.\d+(?![\w.])"
    r"|[+-]?\d[\d,]* (?:ms|microseconds|KiB|MiB|hours?|points?|times)\b"
    r")"
)


def spread(values: Collection[float]) -> dict[str, float]:
    """The median of several turns with the lowest and the highest, as `render` takes them."""
    return {"median": round(median(values), 3), "least": round(min(values), 3), "most": round(max(values), 3)}


def unmarked(page: str, allowed: Mapping[str, str]) -> list[str]:
    """Each line of prose with a number that looks like a measurement and names no source.

    `allowed` has phrases whose numbers are no measurements; they are left out.
    """
    for phrase in allowed:
        page = re.sub(r"\s+".join(map(re.escape, phrase.split())), lambda match: "\n" * match[0].count("\n"), page)
    for pattern in _NOT_PROSE:
        page = pattern.sub(lambda match: "\n" * match[0].count("\n"), page)
    return [line.strip() for line in page.splitlines() if _MEASUREMENT.search(line)]
