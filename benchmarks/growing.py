"""What is timed as one thing grows? For each dimension, the smallest real piece of work that it is part of.

Each function takes the size of its dimension and returns what the work costs at that size. Profiles with more
checkpoints or escalations have the shipped one's trees, and copies of its other numbers. Whole requests run in this
process (`benchmarks.in_process`), non-streaming, with a key and its limits.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from starlette.datastructures import Headers

from benchmarks import load
from benchmarks.in_process import running
from benchmarks.peers import create_key, redis_server
from benchmarks.stack import serving
from gateway import store
from gateway.access import keys
from gateway.access.keyring import Keyring
from gateway.config import shipped_family
from gateway.ledger import entry as entries
from gateway.ledger import ledger
from gateway.ledger.drift import compute_drift
from gateway.ledger.entry import Entry
from gateway.ledger.replay import Replay
from gateway.ledger.savings import compute_savings
from gateway.routing import rule
from gateway.routing.rule import RoutingRequest
from models import family as families
from models import profile as profiles
from models.profile import Profile
from models.rule import Forecast

MANY = 12
"""Checkpoints of the profile whose escalations grow: enough pairs for 64."""
HOLDOUT = 0.02
REPEATS = 5
LEAST_SECONDS = 0.02
"""How long one repetition takes at least."""
LOADED_SECONDS, LOADED_CLIENTS = 5.0, 32
Work = Callable[[], Awaitable[object] | object]


@dataclass(frozen=True)
class Cost:
    """What one size costs."""

    microseconds: float
    """CPU time of this process."""
    mib: float | None = None
    """Resident memory while the result is held, where that is what may grow."""


@dataclass(frozen=True)
class Bench:
    """What all dimensions need."""

    redis: str
    engine: str
    key: str
    directory: Path
    questions: Sequence[str]

    def request(self, messages: Sequence[dict[str, str]]) -> bytes:
        """A non-streaming chat request."""
        return load.post(f"{self.engine}/v1/chat/completions", {"messages": messages}, stream=False, key=self.key)


async def timed(work: Work) -> float:
    """Microseconds of CPU time that the work takes: the best of several repetitions, after one to warm up."""
    took = await _seconds(work, 1)
    times = max(1, round(LEAST_SECONDS / max(took, 1e-7)))
    return min([await _seconds(work, times) for _ in range(REPEATS)]) / times * 1e6


async def _seconds(work: Work, times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        result = work()
        if inspect.isawaitable(result):
            await result
    return time.process_time() - began


def profile_of(checkpoints: int, escalations: int) -> Profile:
    """A profile with so many checkpoints, the shipped family's reference first, and so many escalations."""
    family = families.load(shipped_family(), verify=False)
    raw: dict[str, Any] = json.loads((shipped_family() / family.profile).read_text())
    names = [family.reference, *(f"c{number}" for number in range(1, checkpoints))]
    for field in ("scales", "budget_forced_shifts", "residuals"):
        raw[field] = dict(zip(names, itertools.cycle(raw[field].values()), strict=False))
    pairs = itertools.islice(itertools.permutations(names, 2), escalations)
    fitted = itertools.cycle(list(raw["escalations"].values()))
    raw["escalations"] = {
        f"{one}>{other}": {**next(fitted), "first": one, "second": other} for one, other in pairs
    }  # fmt: skip
    return Profile.of({**raw, "floors": []})


async def _decision(profile: Profile, questions: Sequence[str]) -> Cost:
    """One decision, on average over the questions."""
    family = families.load(shipped_family(), verify=False)
    everyone = frozenset(profile.checkpoints)

    def decide() -> None:
        for question in questions:
            prediction = profile.predict(question)
            request = RoutingRequest(
                prediction=prediction, limit=64, tolerance=0.005, allowed=everyone, available=everyone
            )
            rule.decide(family, request)

    return Cost(await timed(decide) / len(questions))


async def checkpoints(bench: Bench, size: int) -> Cost:
    """A decision between so many checkpoints."""
    return await _decision(profile_of(size, 0), bench.questions)


async def escalations(bench: Bench, size: int) -> Cost:
    """A decision between 12 checkpoints and so many escalations."""
    return await _decision(profile_of(MANY, size), bench.questions)


async def prompt(_: Bench, size: int) -> Cost:
    """A decision on a prompt of so many characters."""
    family = families.load(shipped_family(), verify=False)
    profile = profiles.load(shipped_family() / family.profile)
    return await _decision(profile, [_text(size)])


async def _request(bench: Bench, messages: Sequence[dict[str, str]], engines: Sequence[str] = ()) -> Cost:
    """A whole request with these messages."""
    urls = engines or [bench.engine]
    async with running(urls, bench.redis, bench.directory / "state") as gateway:
        request = bench.request(messages)
        return Cost(await timed(lambda: gateway.ask(request)))


async def body(bench: Bench, size: int) -> Cost:
    """A request with a body of so many bytes."""
    overhead = len(bench.request([_message("user", "")]).partition(b"\r\n\r\n")[2])
    return await _request(bench, [_message("user", _text(max(1, size - overhead)))])


async def messages(bench: Bench, size: int) -> Cost:
    """A request with so many messages of 100 characters."""
    roles = itertools.cycle(("user", "assistant"))
    return await _request(bench, [_message(next(roles), _text(100)) for _ in range(size)])


async def engines(bench: Bench, size: int) -> Cost:
    """A request that one of so many engines may answer."""
    urls = [f"{bench.engine}/engine-{number}" for number in range(size)]
    return await _request(bench, [_message("user", bench.questions[0])], urls)


async def authenticating(bench: Bench, size: int) -> Cost:
    """Finding the key of a request."""
    async with AsyncExitStack() as stack:
        keyring, secret = await _keyring(stack, bench, size)
        headers = Headers({"authorization": f"Bearer {secret}"})
        return Cost(await timed(lambda: keyring.authenticate(headers)))


async def reading_keys(bench: Bench, size: int) -> Cost:
    """Reading all keys again, which a gateway does when one was created or revoked."""
    async with AsyncExitStack() as stack:
        keyring, _ = await _keyring(stack, bench, size)

        async def changed() -> None:
            await keyring.redis.incr(keys.VERSION)
            await keyring.refresh()

        return Cost(await timed(changed))


async def _keyring(stack: AsyncExitStack, bench: Bench, size: int) -> tuple[Keyring, str]:
    """A keyring with so many keys, and the secret of one."""
    redis = stack.enter_context(redis_server(bench.directory))
    keyring = Keyring(redis, bench.directory)
    stack.push_async_callback(keyring.aclose)
    secret = create_key(redis, "mine")
    for batch in _batches(size - 1):
        await keyring.redis.hset(keys.KEYS, mapping={f"key-{n}": _key(n) for n in batch})
    (bench.directory / "keys.json").unlink(missing_ok=True)
    await keyring.read()
    assert len(keyring.keys) == size
    return keyring, secret


def _batches(size: int) -> list[range]:
    return [range(first, min(first + 1000, size)) for first in range(0, size, 1000)]


def _key(number: int) -> str:
    key = keys.Key(
        name=f"key-{number}", requests_per_minute=100, reasoning_tokens_per_minute=10_000,
        sha256=keys.digest(f"secret {number}"), hint="abcd", created=1.8e9,
    )  # fmt: skip
    return key.model_dump_json(exclude_none=True)


async def savings(bench: Bench, size: int) -> Cost:
    """`laconic savings` after so many requests, of which two in a hundred were holdouts."""
    async with AsyncExitStack() as stack:
        redis = await _ledger(stack, bench, ledger.HOLDOUTS, min(round(HOLDOUT * size), ledger.MAX_HOLDOUTS))
        before = _resident_mib()
        held: list[Any] = []

        async def saved() -> None:
            held.clear()
            snapshot = await ledger.read_snapshot(redis, 0)
            held.append(snapshot)
            held.append(compute_savings(snapshot.cells, snapshot.holdouts))
            held.append(compute_drift(snapshot.cells))

        cost = await timed(saved)
        return Cost(cost, max(0.0, _resident_mib() - before))


async def replay(bench: Bench, size: int) -> Cost:
    """`laconic replay` over so many entries."""
    async with AsyncExitStack() as stack:
        redis = await _ledger(stack, bench, ledger.STREAM, size)
        before = _resident_mib()

        async def replayed() -> None:
            other = Replay(0.05)
            async for one in ledger.read_entries(redis, 0):
                other.add(one)
            assert other.requests >= size

        cost = await timed(replayed)
        return Cost(cost, max(0.0, _resident_mib() - before))


async def _ledger(stack: AsyncExitStack, bench: Bench, stream: str, size: int) -> Any:
    """A Redis with a day's sums in the ledger, and so many entries in one of its streams."""
    url = stack.enter_context(redis_server(bench.directory))
    writer = ledger.Ledger(url, bench.directory / "spool")
    await writer.start()
    for hour, difficulty in itertools.product(range(24), (0.1, 0.3, 0.5, 0.7, 0.9)):
        writer.put(_entry(hour * 5 + round(difficulty * 5), hour, difficulty))
    await writer.aclose()
    redis = store.connect(url)
    stack.push_async_callback(redis.aclose)
    await redis.delete(stream)
    for batch in _batches(size):
        pipeline = redis.pipeline(transaction=False)
        for number in batch:
            line = entries.dump(_entry(10**6 + number, number % 24, number % 100 / 100))
            pipeline.xadd(stream, {"entry": line})
        await pipeline.execute()
    return redis


def _entry(number: int, hour: int, difficulty: float) -> Entry:
    """A routed request; its numbers differ from others'."""
    choices = [f"alpha-0.{n}" for n in range(5)] + [f"alpha-0.{n}>alpha-0.{n + 1}@5%" for n in range(5)]
    forecasts = {name: Forecast(0.9 + 0.001 * n, 80.0 - n, 80.0 - n) for n, name in enumerate(["base", *choices])}
    return Entry(
        id=f"req_{number:032x}", time=1_800_000_000.0 // 86_400 * 86_400 + 3600 * hour + 1, key="bench",
        checkpoint="base", alpha=None, decision="holdout", choice="alpha-0.2", holdout_fraction=HOLDOUT, holdout=True,
        difficulty=difficulty, budget=None, choices=1, prompt_tokens=20, reasoning_tokens=40 + number % 50,
        answer_tokens=5, predicted_tokens=42.0, reference_tokens=80.0 + number % 7, forecasts=forecasts,
        finish_reason="stop", status=200, error="", first_token_seconds=0.1, total_seconds=0.5,
    )  # fmt: skip


async def workers(bench: Bench, size: int) -> Cost:
    """A streamed request to so many workers, under the same load: CPU time of all of them together."""
    name = f"workers-{size}"
    redis = bench.redis
    with serving(
        bench.directory / name, "--engine", bench.engine, "--redis", redis, "--log-level", "warning",
        "--workers", str(size),
    ) as url:  # fmt: skip
        serving_process = psutil.Process(int((bench.directory / name / "lock").read_text()))
        asked = load.requests(f"{url}/v1", bench.questions, stream=True, key=bench.key)

        async def loaded(seconds: float) -> int:
            times = await load.load(f"{url}/v1", asked, LOADED_CLIENTS, seconds, stream=True)
            assert not times.failed
            return len(times.total)

        await loaded(1.0)
        everyone = [serving_process, *serving_process.children(recursive=True)]
        before = sum(sum(one.cpu_times()[:2]) for one in everyone)
        answered = await loaded(LOADED_SECONDS)
        await asyncio.sleep(0.2)
        return Cost((sum(sum(one.cpu_times()[:2]) for one in everyone) - before) / answered * 1e6)


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _text(characters: int) -> str:
    return ("What is 12 + 35 - 8? " * (characters // 21 + 1))[:characters]


def _resident_mib() -> float:
    return psutil.Process().memory_info().rss / 2**20
