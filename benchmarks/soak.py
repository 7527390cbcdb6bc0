"""Does the gateway stay as it is under load for a long time? Memory, open files, and whether its ledger is complete.

    make bench-soak

sends `RATE` streamed requests a second for twenty minutes, with a key that has limits, through one worker in front of
an upstream that does no work. At the end the ledger must have each request once. `soak.json` names the machine and has
the samples.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psutil
from rich.progress import Progress

from benchmarks import machine, peers
from benchmarks.peers import Laconic

RATE, CLIENTS = 100.0, 64
SAMPLE_SECONDS = 5.0
WARM_SECONDS = 120.0
"""Samples before this are not compared: buffers and pools are still growing."""
DELIVERY_SECONDS = 30.0
Sample = dict[str, float]


def main() -> None:
    """Measure, and write `soak.json`. The exit status is 1 if an entry is missing or doubled, or a request failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory for the results")
    parser.add_argument("--minutes", type=float, default=20.0)
    arguments = parser.parse_args()
    results = asyncio.run(_measure(arguments.minutes * 60))
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "soak.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps({name: value for name, value in results.items() if name != "samples"}, indent=1))
    if results["lost"] or results["doubled"] or results["failed"]:
        sys.exit(1)


async def _measure(seconds: float) -> dict[str, object]:
    measured_on = machine.describe()
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        with (
            peers.upstream_server(directory) as upstream,
            peers.laconic(upstream.url.removesuffix("/v1"), directory) as gateway,
        ):
            load = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "benchmarks.load", gateway.url, "--key", gateway.key, "--stream"),
                *("--rate", str(RATE), "--clients", str(CLIENTS), "--seconds", str(seconds)),
                stdout=asyncio.subprocess.PIPE,
            )
            samples = await _samples(gateway, load, seconds)
            printed, _ = await load.communicate()
            figures = json.loads(printed)
            sent = int(figures["requests"]) + CLIENTS  # one for each client warms its connection up
            copies = await asyncio.to_thread(_ledger, gateway, directory / "ledger.jsonl", sent)
    return {
        "machine": measured_on,
        "requests/s": RATE,
        "minutes": seconds / 60,
        "requests": sent,
        "failed": int(figures["failed"]),
        "lost": sent - len(copies),
        "doubled": sum(count > 1 for count in copies.values()),
        "first p99 ms": round(figures["first p99 ms"], 1),
        **_growth(samples),
        "samples": samples,
    }


async def _samples(gateway: Laconic, load: asyncio.subprocess.Process, seconds: float) -> list[Sample]:
    """The gateway's memory and open files every `SAMPLE_SECONDS` until the load ends."""
    process, began, samples = psutil.Process(gateway.pid), time.monotonic(), list[Sample]()
    with Progress() as progress:
        line = progress.add_task("measuring", total=seconds)
        while load.returncode is None:
            elapsed = time.monotonic() - began
            memory = process.memory_info().rss / 2**20
            samples.append({"s": round(elapsed), "MiB": round(memory, 1), "open files": process.num_fds()})
            progress.update(line, completed=elapsed)
            await asyncio.wait([asyncio.ensure_future(load.wait())], timeout=SAMPLE_SECONDS)
    return samples


def _growth(samples: Sequence[Sample]) -> dict[str, float]:
    """Medians of the first and the last quarter after the warm-up, and their ratio."""
    warm = [sample for sample in samples if sample["s"] >= WARM_SECONDS] or list(samples)
    quarter = max(1, len(warm) // 4)
    parts = (warm[:quarter], warm[-quarter:])
    figures: dict[str, float] = {}
    for name in ("MiB", "open files"):
        first, last = (sorted(sample[name] for sample in part)[quarter // 2] for part in parts)
        figures |= {f"{name}, first quarter": first, f"{name}, last quarter": last}
        figures[f"{name}, growth"] = round(last / first, 3)
    return figures


def _ledger(gateway: Laconic, file: Path, expected: int) -> Counter[str]:
    """How often the ledger has each request, once it has them all or no more come."""
    copies = Counter[str]()
    deadline = time.monotonic() + DELIVERY_SECONDS
    while len(copies) < expected and time.monotonic() < deadline:
        time.sleep(2)
        file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "gateway.cli", "export", str(file), "--redis", gateway.redis]
        subprocess.run(command, check=True, capture_output=True)
        copies = Counter(json.loads(line)["id"] for line in file.read_text().splitlines())
    return copies


if __name__ == "__main__":
    main()
