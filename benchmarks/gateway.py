"""What does going through the gateway cost? Measured beside going direct, through vllm-router and through LiteLLM.

    make bench-gateway

puts each gateway in front of one upstream that does no work. Laconic runs one worker with everything on: profile, a key
with limits, and the ledger in a real Redis. The load, the upstream and all gateways share this machine's cores.

A machine is not equally fast at all times. So every gateway is measured in turn, several turns over; ratios are of
figures in the same turn, and their median is reported with the lowest and the highest. Five turns take about sixteen
minutes; the duration is printed first. The results are of one kind of machine and go to `gateway/KIND.json`; the run
is compared with the committed one of the same kind. `make generated` then updates the pages, which quote the kind that
`benchmarks.sources` names.

    requests/s     streamed and not, with 1 to 256 clients, each of which asks again once it has its response
    first          from sending a request to the first event, with one client, and at a steady rate
    idle stream    resident memory for one more stream that has begun and is silent
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import psutil
import uvloop
from rich.progress import Progress

from benchmarks import load, machine, slower
from benchmarks.figures import spread
from benchmarks.peers import Target, started
from benchmarks.upstream import IDLE
from training.tasks.prompts import prompts

CLIENTS = (1, 16, 64, 256)
STEADY_RATE = 200.0
IDLE_STREAMS = 200
QUESTIONS = 500
TARGETS = 4
SECONDS_BETWEEN = 3.3
"""What starting and ending the load takes, beside the seconds that are measured."""
SEED = 0
Figures = dict[str, float]


def main() -> None:
    """Measure, write the figures of this kind of machine, and say what became slower."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory for the results")
    parser.add_argument("--turns", type=int, default=5, help="how often everything is measured")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement")
    arguments = parser.parse_args()
    measured_on = machine.describe()
    _print_duration(arguments.turns, arguments.seconds)
    with tempfile.TemporaryDirectory() as directory, started(Path(directory)) as targets:
        questions = Path(directory) / "questions.json"
        questions.write_text(json.dumps([prompt.prompt for prompt in prompts("heldout", SEED, QUESTIONS)]))
        # Idle streams come first: memory that a load frees stays with the process, and would hide theirs.
        idle = {target.name: uvloop.run(_idle_stream_kib(target)) for target in targets[1:]}
        turns = _measure(targets, questions, arguments.turns, arguments.seconds)
    results = {
        "machine": measured_on,
        "seed": SEED,
        "turns": arguments.turns,
        "seconds": arguments.seconds,
        "requests/s": _rates(turns),
        "ratios": _ratios(turns),
        slower.IDLE: idle,
    }
    kind = machine.kind(measured_on)
    path = arguments.out / "gateway" / f"{kind}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results["ratios"], indent=1))
    print(slower.report(slower.committed(path), results, kind))


def _print_duration(turns: int, seconds: float) -> None:
    measurements = turns * len(_cases()) * TARGETS
    minutes = measurements * (seconds + SECONDS_BETWEEN) / 60
    print(f"{measurements} measurements of {seconds:g} s in {turns} turns: about {minutes:.0f} minutes", flush=True)


def _cases() -> dict[str, list[str]]:
    """The flags of `benchmarks.load`, by case."""
    cases = {
        f"{kind} {clients}": _flags(kind, clients) for kind in ("streamed", "non-streaming") for clients in CLIENTS
    }
    return {**cases, "steady": ["--stream", "--clients", "64", "--rate", str(STEADY_RATE)]}


def _measure(targets: list[Target], questions: Path, turns: int, seconds: float) -> list[dict[str, dict[str, Figures]]]:
    """The figures of every turn, by case and target."""
    cases = _cases()
    measured: list[dict[str, dict[str, Figures]]] = []
    with Progress() as progress:
        line = progress.add_task("measuring", total=turns * len(cases) * len(targets))
        for _ in range(turns):
            turn: dict[str, dict[str, Figures]] = {}
            for case, flags in cases.items():
                turn[case] = {}
                for target in targets:
                    if case != "steady" or target.name != "LiteLLM":  # it does a tenth of that rate
                        turn[case][target.name] = _load(target, [*flags, "--seconds", str(seconds)], questions)
                    progress.advance(line)
            measured.append(turn)
    return measured


def _flags(kind: str, clients: int) -> list[str]:
    return ["--clients", str(clients), *(["--stream"] if kind == "streamed" else [])]


def _load(target: Target, flags: list[str], questions: Path) -> Figures:
    command = [sys.executable, "-m", "benchmarks.load", target.url, *flags, "--prompts", str(questions)]
    done = subprocess.run([*command, "--key", target.key], stdout=subprocess.PIPE, text=True, check=True, timeout=300)
    figures: Figures = json.loads(done.stdout)
    if figures["failed"]:
        raise RuntimeError(f"{target.name}: {figures['failed']:.0f} requests failed")
    return figures


async def _idle_stream_kib(target: Target) -> float:
    (message,) = load.requests(target.url, ["What is 12 + 35 - 8?"], stream=True, key=target.key, seed=IDLE)

    async def opened(number: int) -> list[asyncio.Task[None]]:
        times = load.Times()
        asking = [asyncio.create_task(load.Caller(target.url, times, stream=True).ask(message)) for _ in range(number)]
        while len(times.first) < number:
            await asyncio.sleep(0.05)
        return asking

    warm = await opened(20)
    before = _resident(target.pid)
    idle = await opened(IDLE_STREAMS)
    after = _resident(target.pid)
    for asking in warm + idle:
        asking.cancel()
    return (after - before) / IDLE_STREAMS / 1024


def _resident(pid: int) -> int:
    process = psutil.Process(pid)
    time.sleep(0.5)
    return sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))


def _rates(turns: list[dict[str, dict[str, Figures]]]) -> dict[str, dict[str, float]]:
    return {
        case: {name: round(median(turn[case][name]["requests/s"] for turn in turns), 1) for name in turns[0][case]}
        for case in turns[0]
        if case != "steady"
    }


def _ratios(turns: list[dict[str, dict[str, Figures]]]) -> dict[str, dict[str, float]]:
    """Ratios and differences of figures in the same turn: the median, the lowest and the highest."""
    ratios: dict[str, list[float]] = {}
    for turn in turns:
        for case, by_target in turn.items():
            ours = by_target["laconic"]
            for peer in ("direct", "vllm-router", "LiteLLM"):
                if case != "steady":
                    ratios.setdefault(f"requests/s, {case}, laconic / {peer}", []).append(
                        ours["requests/s"] / by_target[peer]["requests/s"]
                    )
        for case, quantile in (("streamed 1", "p50"), ("steady", "p99")):
            for name in ("laconic", "vllm-router"):
                direct, through = turn[case]["direct"], turn[case][name]
                added = through[f"first {quantile} ms"] - direct[f"first {quantile} ms"]
                ratios.setdefault(f"ms to first event, {case}, {name} - direct, {quantile}", []).append(added)
        direct, ours = turn["steady"]["direct"], turn["steady"]["laconic"]
        ratios.setdefault("ms between events, steady, laconic - direct, p99", []).append(
            ours["gap p99 ms"] - direct["gap p99 ms"]
        )
    return {name: spread(values) for name, values in ratios.items()}


if __name__ == "__main__":
    main()
