"""Do shadows, feedback or an open dashboard delay callers? Latencies of one traffic, with each and without, in turns.

    python -m benchmarks.live_overhead --out benchmarks/results

runs three gateways in front of the same engine: one as it is, one with `--shadow-fraction`, and one whose callers post
a score for each answer while a browser has the dashboard's event stream open. In each round, each gateway gets the same
questions at the same steady rate for some seconds, in random order of the gateways. Answers are greedy, so that turns
differ in little but chance. It reports p50 and p99 of the callers' latency, and the ratios to the first gateway with
95 % intervals from resampling rounds.

It does so with vLLM behind the gateways, where a shadow also takes the engine's time, and with an engine that does no
work, where only the gateway's own time is left. It takes about 20 minutes; keep the machine quiet.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import tempfile
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks import alerts, machine, peers
from benchmarks.intervals import with_interval
from benchmarks.live import RESAMPLES, Stack, add_common, connected, engine, write
from benchmarks.stack import serving
from training.tasks.prompts import prompts
from training.tasks.question import Question

PLAIN, SHADOWS, WATCHED = "plain", "shadows", "feedback and dashboard"
ARMS = (PLAIN, SHADOWS, WATCHED)
QUANTILES = {"p50": 0.5, "p99": 0.99}
SETTLE_SECONDS = 2.0
"""Between two turns, so that shadows of one do not meet callers of the next."""
Rounds = Mapping[str, Sequence[NDArray[np.float64]]]
"""Latencies in seconds by arm and round."""


@dataclass(frozen=True)
class Load:
    """What each gateway gets in a round."""

    rate: float
    """Requests a second."""
    seconds: float
    rounds: int

    @property
    def requests(self) -> int:
        """In one turn."""
        return max(round(self.rate * self.seconds), 1)


def main() -> None:
    """Measure, and write `live_overhead.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser, seed=4601)
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=15.0, help="of a turn")
    parser.add_argument("--rate", type=float, default=4.0, help="requests a second to vLLM")
    parser.add_argument("--idle-rate", type=float, default=50.0, help="requests a second to the engine without work")
    parser.add_argument("--shadow-fraction", type=float, default=0.1)
    arguments = parser.parse_args()
    write(arguments.out, "live_overhead", measure(arguments))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Both engines, one after the other."""
    described = machine.describe()
    behind = {
        "vLLM": Load(arguments.rate, arguments.seconds, arguments.rounds),
        "an engine without work": Load(arguments.idle_rate, arguments.seconds / 3, arguments.rounds),
    }
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as directory, ExitStack() as entered:
        place = Path(directory)
        vllm = entered.enter_context(engine(arguments.engine, place / "stack"))
        idle = entered.enter_context(peers.upstream_server(place)).url.removesuffix("/v1")
        for (name, load), url in zip(behind.items(), (vllm, idle), strict=True):
            found[name] = _behind(arguments, place / name.replace(" ", "-"), url, load, name)
    return {
        "machine": described,
        "seed": arguments.seed,
        "shadow fraction": arguments.shadow_fraction,
        "behind": found,
    }


def _behind(arguments: argparse.Namespace, place: Path, engine_url: str, load: Load, label: str) -> dict[str, Any]:
    extra = {PLAIN: (), SHADOWS: ("--shadow-fraction", str(arguments.shadow_fraction)), WATCHED: ()}
    with ExitStack() as entered:
        stacks: dict[str, Stack] = {}
        for number, (arm, more) in enumerate(extra.items()):
            options = ("--engine", engine_url, "--log-level", "warning", *more)
            url = entered.enter_context(serving(place / str(number), *options))
            stacks[arm] = Stack(url, temperature=0.0)
        rounds = asyncio.run(turns(stacks, load, arguments.seed, label))
        text = httpx.get(f"{stacks[SHADOWS].url}/metrics", timeout=60).text
    shadows = {dict(labels)["outcome"]: n for labels, n in alerts.exposed(text)["laconic_shadows_total"].items()}
    return {
        "requests/s": load.rate,
        "seconds": load.seconds,
        "rounds": load.rounds,
        "requests of each": load.rounds * load.requests,
        "shadows": shadows,
        "milliseconds": {arm: quantiles(rounds[arm]) for arm in ARMS},
        "ratios": {arm: ratios(rounds, arm) for arm in ARMS if arm != PLAIN},
    }


async def turns(stacks: Mapping[str, Stack], load: Load, seed: int, label: str) -> dict[str, list[NDArray[np.float64]]]:
    """The latencies of every turn. A round before the first one is a warm-up."""
    rng = random.Random(seed)
    found: dict[str, list[NDArray[np.float64]]] = {arm: [] for arm in stacks}
    questions = prompts("heldout", seed, load.requests * (load.rounds + 1))
    with tqdm(total=len(stacks) * (load.rounds + 1), desc=label) as bar:
        for number in range(load.rounds + 1):
            asked = questions[number * load.requests : (number + 1) * load.requests]
            for arm in rng.sample(list(stacks), len(stacks)):
                async with _dashboard(stacks[arm]) if arm == WATCHED else contextlib.nullcontext():
                    seconds = await _turn(stacks[arm], asked, load.rate, scores=arm == WATCHED)
                if number:
                    found[arm].append(np.array(seconds))
                await asyncio.sleep(SETTLE_SECONDS)
                bar.update()
    return found


async def _turn(stack: Stack, questions: Sequence[Question], rate: float, *, scores: bool) -> list[float]:
    """The seconds that each request took; they begin at a steady rate, however long others take."""
    seconds: list[float] = []
    async with connected(256) as client, asyncio.TaskGroup() as group:

        async def one(number: int, question: Question) -> None:
            answer = await stack.ask_one(client, number, question)
            seconds.append(answer.seconds)
            if scores:
                await stack.score_one(client, answer, "verifier")

        began = time.perf_counter()
        for number, question in enumerate(questions):
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            group.create_task(one(number, question))
    return seconds


@asynccontextmanager
async def _dashboard(stack: Stack) -> AsyncGenerator[None]:
    """The dashboard's event stream is open, and something reads it."""
    async with connected(1) as client, client.stream("GET", f"{stack.url}/v1/overview/stream") as got:
        got.raise_for_status()

        async def read() -> None:
            async for _ in got.aiter_raw():
                pass

        reading = asyncio.create_task(read())
        try:
            yield
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


def quantiles(rounds: Sequence[NDArray[np.float64]]) -> dict[str, float]:
    """p50 and p99 over all rounds, in milliseconds."""
    every = np.concatenate(rounds)
    return {name: float(np.quantile(every, at)) * 1e3 for name, at in QUANTILES.items()}


def ratios(rounds: Rounds, arm: str, seed: int = 0) -> dict[str, dict[str, float]]:
    """p50 and p99 of an arm divided by the plain one's, with 95 % intervals from resampling rounds."""
    mine, plain = rounds[arm], rounds[PLAIN]
    draws = np.random.default_rng(seed).integers(0, len(plain), (RESAMPLES, len(plain)))

    def ratio(at: float, chosen: Sequence[int]) -> float:
        above, below = (np.quantile(np.concatenate([one[i] for i in chosen]), at) for one in (mine, plain))
        return float(above / below)

    everything = range(len(plain))
    return {
        name: with_interval(ratio(at, everything), [ratio(at, draw.tolist()) for draw in draws])
        for name, at in QUANTILES.items()
    }


if __name__ == "__main__":
    main()
