"""What do the tables about cost as it grows, and about instructions, hold? Each as Markdown, from what was measured."""

from __future__ import annotations

from benchmarks.figures import render
from benchmarks.markdown import machine_table, table
from benchmarks.sources import Sources


def growth(sources: Sources) -> str:
    """The cost of every dimension at its smallest and its largest size, and how fast it grows between."""
    rows = [
        (
            name,
            one["what"],
            f"{one['sizes'][0]:,} to {one['sizes'][-1]:,}",
            f"{_time(one['microseconds'][0])} to {_time(one['microseconds'][-1])}",
            render(one["slope"], ".2"),
            render(one["slope at the end"], ".2"),
        )
        for name, one in sources.value("growth", "dimensions").items()
    ]
    return table(["what grows", "what is timed", "from, to", "CPU time", "slope", "at the end"], rows)


def growth_machine(sources: Sources) -> str:
    """What the growth was measured on."""
    return machine_table(sources.value("growth", "machine"))


def instructions(sources: Sources) -> str:
    """Thousands of instructions of each piece of work, by Python version."""
    versions = sources.table("instructions")
    names = next(iter(versions.values()))["instructions"]
    rows = [
        (version, *(render(one["instructions"][name] / 1000, ",0") for name in names))
        for version, one in versions.items()
    ]
    return table(["Python", *(f"{name}, thousands" for name in names)], rows)


def _time(microseconds: float) -> str:
    """A time with a unit in which it has few digits."""
    if microseconds < 1_000:
        return f"{microseconds:.0f} microseconds" if microseconds >= 10 else f"{microseconds:.1f} microseconds"
    return f"{microseconds / 1e3:.1f} ms" if microseconds < 1e6 else f"{microseconds / 1e6:.1f} s"
