"""What does another caller notice while a gateway is attacked? Its time to the first event, and the gateway's memory.

    make bench-attacks

starts one worker with keys and limits in front of an upstream that does no work. A bystander with a key of its own
sends `RATE` streamed requests a second, first alone, then during each attack of `benchmarks.attackers`, which uses
another key. The attacker, the upstream and the gateway share this machine's cores. Ratios are of figures within one
turn, and their median is reported with the lowest and the highest. `attacks.json` names the machine.

    first        p99 of the bystander's time from request to first event, as a ratio to its time without an attack
    failed       the bystander's requests that were not answered
    memory       the gateway's resident memory after the attack, as a ratio to before it, and the highest during it
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from rich.progress import Progress

from benchmarks import machine, peers
from benchmarks.attackers import ATTACKS
from benchmarks.figures import spread
from benchmarks.peers import Laconic

RATE, CLIENTS = 40.0, 16
SETTLE_SECONDS = 45.0
"""How long memory may take to come back: the gateway gives it back to the system at most twice a minute."""
RETURNED = 1.2
"""Memory has come back if it is at most this many times what it was before."""
Figures = dict[str, float]


def main() -> None:
    """Measure, and write `attacks.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory for the results")
    parser.add_argument("--turns", type=int, default=3, help="how often everything is measured")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of one attack")
    only = "only this one, beside what was measured of the others; repeat for several"
    parser.add_argument("--attack", action="append", choices=ATTACKS, help=only)
    arguments = parser.parse_args()
    names = arguments.attack or [*ATTACKS]
    minutes = arguments.turns * len(names) * (2 * arguments.seconds + 10) / 60
    print(f"{len(names)} attacks in {arguments.turns} turns: about {minutes:.0f} minutes", flush=True)
    results = asyncio.run(_measure(names, arguments.turns, arguments.seconds))
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "attacks.json"
    if arguments.attack and file.exists():  # the other attacks keep what was measured of them
        results["attacks"] = {**json.loads(file.read_text())["attacks"], **results["attacks"]}
    file.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results["attacks"], indent=1))


async def _measure(names: list[str], turns: int, seconds: float) -> dict[str, Any]:
    measured_on = machine.describe()
    measured: dict[str, list[Figures]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as temporary, Progress() as progress:
        directory = Path(temporary)
        line = progress.add_task("measuring", total=turns * len(names))
        with (
            peers.upstream_server(directory) as upstream,
            peers.laconic(upstream.url.removesuffix("/v1"), directory) as gateway,
        ):
            attacker = peers.create_key(gateway.redis, "attacker")
            await asyncio.sleep(2)  # gateways learn of a key within a second
            await _bystander(gateway, seconds)  # a warm-up: memory that the first requests need stays
            for _ in range(turns):
                for name in names:
                    measured[name].append(await _attacked(gateway, name, attacker, seconds))
                    progress.advance(line)
    return {
        "machine": measured_on,
        "turns": turns,
        "seconds": seconds,
        "requests/s": RATE,
        "attacks": {name: {"commit": measured_on["commit"], **_summary(figures)} for name, figures in measured.items()},
    }


async def _attacked(gateway: Laconic, name: str, attacker: str, seconds: float) -> Figures:
    """The bystander's and the gateway's figures without the attack and during it."""
    quiet = await _bystander(gateway, seconds)
    before = _resident(gateway.pid)
    command = [sys.executable, "-m", "benchmarks.attackers", name, gateway.url, "--key", attacker]
    attack = await asyncio.create_subprocess_exec(
        *command, "--seconds", str(seconds + 2), stdout=asyncio.subprocess.DEVNULL
    )
    watching = asyncio.create_task(_highest(gateway.pid))
    await asyncio.sleep(1)
    busy = await _bystander(gateway, seconds)
    await attack.wait()
    watching.cancel()
    highest = await watching
    ended = time.monotonic()
    await asyncio.sleep(1)
    while _resident(gateway.pid) > RETURNED * before and time.monotonic() - ended < SETTLE_SECONDS:
        await asyncio.sleep(0.5)
    return {
        "first p99 ms without": quiet["first p99 ms"],
        "first p99 ms": busy["first p99 ms"],
        "first p99 ratio": busy["first p99 ms"] / quiet["first p99 ms"],
        "failed": busy["failed"] + quiet["failed"],
        "MiB before": before / 2**20,
        "MiB at most": highest / 2**20,
        "memory ratio": _resident(gateway.pid) / before,
        "seconds until then": time.monotonic() - ended,
    }


async def _bystander(gateway: Laconic, seconds: float) -> Figures:
    command = [sys.executable, "-m", "benchmarks.load", gateway.url, "--stream", "--key", gateway.key]
    flags = ["--clients", str(CLIENTS), "--rate", str(RATE), "--seconds", str(seconds)]
    process = await asyncio.create_subprocess_exec(*command, *flags, stdout=asyncio.subprocess.PIPE)
    printed, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the bystander failed with {process.returncode}")
    # If no request was answered, each of them waited for as long as it was measured.
    return {"first p99 ms": seconds * 1e3, **json.loads(printed)}


async def _highest(pid: int) -> int:
    """The highest resident memory until cancelled."""
    highest = 0
    try:
        while True:
            highest = max(highest, _resident(pid))
            await asyncio.sleep(0.1)
    except asyncio.CancelledError:
        return highest


def _resident(pid: int) -> int:
    return psutil.Process(pid).memory_info().rss


def _summary(turns: list[Figures]) -> dict[str, dict[str, float]]:
    return {name: spread([turn[name] for turn in turns]) for name in turns[0]}


if __name__ == "__main__":
    main()
