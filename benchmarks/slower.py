"""What became slower? A run of `make bench-gateway` beside the committed one of the same kind of machine.

Figures of different CPUs say nothing about each other, so each kind of machine has its own file in `results/gateway/`
(`benchmarks.machine.kind`). A figure is slower if its median is worse than the worst turn of the committed run.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.figures import render

IDLE = "KiB per idle stream"
MORE_MEMORY = 1.1
"""Memory is measured once, so it has no range: a tenth more is more."""


def committed(path: Path) -> dict[str, Any] | None:
    """The JSON of a file as it is committed, whatever the working tree has now; None if it is not."""
    shown = subprocess.run(
        ["git", "show", f"HEAD:./{path.name}"], cwd=path.parent, capture_output=True, text=True, check=False
    )
    return json.loads(shown.stdout) if shown.returncode == 0 else None


def report(before: Mapping[str, Any] | None, now: Mapping[str, Any], kind: str) -> str:
    """What to print at the end of a run."""
    if before is None:
        return f"Nothing to compare with: no figures of {kind} are committed."
    commit, load = (before["machine"][name] for name in ("commit", "load before"))
    against = f"{commit} on {kind}, measured at a load of {load} (now {now['machine']['load before']})"
    slower = list(became_slower(before, now))
    return "\n".join([f"Slower than {against}:" if slower else f"Nothing is slower than {against}.", *slower])


def became_slower(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """A line for each of Laconic's figures that is worse than the worst of the earlier run."""
    for name, figure in now["ratios"].items():
        earlier = before["ratios"].get(name)
        if earlier is None or "laconic" not in name:
            continue
        added = name.startswith("ms ")  # of milliseconds, fewer are better
        if figure["median"] > earlier["most"] if added else figure["median"] < earlier["least"]:
            yield f"  {name}: {render(figure, '.2')}, was {render(earlier, '.2')}"
    kib, earlier_kib = now[IDLE]["laconic"], before[IDLE]["laconic"]
    if kib > MORE_MEMORY * earlier_kib:
        yield f"  {IDLE}: {render(kib, '.0')}, was {render(earlier_kib, '.0')}"
