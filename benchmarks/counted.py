"""What is counted? One decision, one streamed and one non-streaming request, many times, under valgrind.

    python -m benchmarks.counted MARKS QUESTIONS REDIS ENGINE KEY DIRECTORY

`benchmarks.instructions` starts it, and reads the counts from what callgrind writes at each mark. Everything runs
several times before it is counted, so that caches are full and CPython has specialised its code. No task of the
background runs meanwhile, and after each request there is time for its ledger entry to be written.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import random
import sys
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import load
from benchmarks.in_process import Loop, collect_rarely, running
from gateway import memory
from gateway.access import keyring, limits
from gateway.config import shipped_family
from gateway.engines import probes
from gateway.observe import metrics
from gateway.routing import rule
from gateway.routing.rule import RoutingRequest
from models import family as families
from models import profile as profiles

DECISIONS, REQUESTS, WARM = 50, 20, 20
SEED = 0
LIMIT = 64
REPEATED = {"decision": DECISIONS, "streamed": REQUESTS, "non-streaming": REQUESTS}
"""How often each piece of work is counted."""
WRITTEN_SECONDS = 0.1
"""After which settlement and ledger entry of a request are in Redis."""
_NEVER = 3600.0
_CLOCKS = (
    (keyring, "REFRESH_SECONDS"),
    (probes, "PROBE_SECONDS"),
    (metrics, "REFRESH_SECONDS"),
    (limits, "WAIT_SECONDS"),
    (memory, "READ_SECONDS"),
)
"""Background tasks, and how long Redis may take: valgrind is fifty times as slow."""


def stop_clocks() -> None:
    """Let time change nothing in what is counted."""
    for module, name in _CLOCKS:
        assert hasattr(module, name)
        setattr(module, name, _NEVER)


@contextmanager
def counting(marks: ctypes.CDLL, name: str) -> Generator[None]:
    """Count the instructions of the block under this name."""
    gc.collect()
    marks.start()
    yield
    marks.stop(name.encode())


def decide() -> Callable[[str], None]:
    """What decides on a question, with the shipped profile and a budget."""
    family = families.load(shipped_family(), verify=False)
    profile = profiles.load(shipped_family() / family.profile)
    everyone = frozenset(checkpoint.name for checkpoint in family.checkpoints)

    def decision(question: str) -> None:
        prediction = profile.predict(question)
        request = RoutingRequest(
            prediction=prediction, limit=LIMIT, tolerance=0.005, allowed=everyone, available=everyone
        )
        rule.decide(family, request)

    return decision


async def _requests(marks: ctypes.CDLL, arguments: list[str], questions: list[str]) -> None:
    redis, engine, key, directory = arguments
    async with running([engine], redis, Path(directory)) as gateway:
        for name, stream in (("streamed", True), ("non-streaming", False)):
            asked = load.requests(f"{engine}/v1", questions, stream=stream, key=key)
            await _each(gateway.ask, asked[-WARM:])
            with counting(marks, name):
                await _each(gateway.ask, asked[:REQUESTS])


async def _each(ask: Callable[[bytes], Awaitable[bytes]], requests: list[bytes]) -> None:
    for request in requests:
        await ask(request)
        await asyncio.sleep(WRITTEN_SECONDS)


def main() -> None:
    """Do it all once."""
    path, questions_file, *arguments = sys.argv[1:]
    marks = ctypes.CDLL(path)
    stop_clocks()
    random.seed(SEED)
    questions: list[str] = json.loads(Path(questions_file).read_text())
    decision = decide()
    for question in questions[DECISIONS:]:
        decision(question)
    collect_rarely()
    with counting(marks, "decision"):
        for question in questions[:DECISIONS]:
            decision(question)
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(_requests(marks, arguments, questions))


if __name__ == "__main__":
    main()
