"""How does the cost grow with what it depends on? One dimension at a time, with the exponent of its growth.

    make bench-growth

takes about eight minutes and writes `growth.json` and `growth.png`. Cost is CPU time, the best of several repetitions,
because other work on the machine changes it little. `benchmarks.growing` says what is timed in each dimension. *Slope*
is the exponent of a log-log fit over all sizes; *at the end* the exponent from the last but one size to the last, where
nothing constant hides the growth any more. 1 is proportional. No dimension may be above that; `ABOVE_LINEAR` leaves
room for noise.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import growing, machine, plots
from benchmarks.counted import stop_clocks
from benchmarks.growing import Bench, Cost
from benchmarks.in_process import Loop, collect_rarely
from benchmarks.peers import create_key, redis_server, upstream_server
from training.tasks.prompts import prompts

SEED = 0
QUESTIONS = 20
ABOVE_LINEAR = 1.15


@dataclass(frozen=True)
class Dimension:
    """Something that grows. The function's first line says what is timed."""

    sizes: Sequence[int]
    cost: Callable[[Bench, int], Awaitable[Cost]]


DIMENSIONS = {
    "checkpoints": Dimension((2, 4, 8, 16, 32, 64), growing.checkpoints),
    "escalations": Dimension((0, 1, 4, 16, 64), growing.escalations),
    "characters of the prompt": Dimension((10, 100, 1_000, 10_000, 100_000), growing.prompt),
    "bytes of the body": Dimension((1_000, 10_000, 100_000, 2**20), growing.body),
    "messages": Dimension((1, 5, 50, 500), growing.messages),
    "engines": Dimension((1, 4, 16, 64), growing.engines),
    "keys, to find one": Dimension((1, 100, 10_000, 100_000), growing.authenticating),
    "keys, to read all": Dimension((1, 100, 10_000, 100_000), growing.reading_keys),
    "requests in the savings": Dimension((10**4, 10**5, 10**6, 10**7), growing.savings),
    "entries of a replay": Dimension((10**2, 10**3, 10**4, 10**5), growing.replay),
    "workers": Dimension((1, 2, 4, 8), growing.workers),
}


def main() -> None:
    """Measure every dimension, or those named, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory for the results")
    parser.add_argument("--only", choices=DIMENSIONS, action="append", help="measure this again; keep the others")
    arguments = parser.parse_args()
    path = arguments.out / "growth.json"
    results: dict[str, Any] = {"machine": machine.describe(), "dimensions": {}}
    if arguments.only:
        results["dimensions"] = json.loads(path.read_text())["dimensions"]
    questions = [one.prompt for one in prompts("heldout", SEED, QUESTIONS)]
    for name in arguments.only or DIMENSIONS:
        results["dimensions"][name] = measured = measure(DIMENSIONS[name], questions)
        print(f"{name}: {json.dumps(measured)}", flush=True)
    results["dimensions"] = {name: results["dimensions"][name] for name in DIMENSIONS if name in results["dimensions"]}
    arguments.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    plots.growth(results, arguments.out / "growth.png")
    for name in above_linear(results["dimensions"]):
        print(f"{name}: grows faster than in proportion")


def measure(dimension: Dimension, questions: Sequence[str]) -> dict[str, Any]:
    """The cost at every size, and the slopes."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        with upstream_server(directory) as upstream, redis_server(directory) as redis:
            stop_clocks()
            collect_rarely()
            key, engine = create_key(redis, "bench"), upstream.url.removesuffix("/v1")
            bench = Bench(redis, engine, key, directory, questions)

            async def every() -> list[Cost]:
                return [await dimension.cost(bench, size) for size in dimension.sizes]

            with asyncio.Runner(loop_factory=Loop) as runner:
                costs = runner.run(every())
    microseconds = [round(cost.microseconds, 1) for cost in costs]
    memory = {"MiB": [round(cost.mib, 1) for cost in costs if cost.mib is not None]} if costs[0].mib is not None else {}
    overall, last = slopes(dimension.sizes, microseconds)
    what = str(dimension.cost.__doc__).rstrip(".")
    return {
        "what": what, "sizes": list(dimension.sizes), "microseconds": microseconds, **memory,
        "slope": round(overall, 2), "slope at the end": round(last, 2),
    }  # fmt: skip


def slopes(sizes: Sequence[int], costs: Sequence[float]) -> tuple[float, float]:
    """The exponents of growth over all sizes and over the last step; a size of 0 has no logarithm and is left out."""
    x, y = np.log([(size, cost) for size, cost in zip(sizes, costs, strict=True) if size > 0]).T
    return float(np.polyfit(x, y, 1)[0]), float((y[-1] - y[-2]) / (x[-1] - x[-2]))


def above_linear(dimensions: dict[str, Any]) -> list[str]:
    """The dimensions that grow faster than in proportion, anywhere or at the end."""
    return [
        name for name, one in dimensions.items() if max(one["slope"], one["slope at the end"]) > ABOVE_LINEAR
    ]  # fmt: skip


if __name__ == "__main__":
    main()
