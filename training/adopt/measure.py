"""What does each level answer to each request? Measured concurrently, stored as it comes, continued after a kill.

Each reply is a line of `replies.jsonl`, written as soon as it is there. A measurement that is started again reads the
lines and sends only what is missing. What was measured is fixed by a fingerprint of model, levels and sampling: another
fingerprint is another measurement, and does not continue this one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.files import write_json
from models.overrides import Cap, with_cap, with_overrides
from training.adopt import cost, forced
from training.adopt.engine import Engine, EngineError, Reply
from training.adopt.levels import Level
from training.adopt.prompts import Request
from training.errors import StageError

PLAN, REPLIES = "plan.json", "replies.jsonl"
MAX_REFUSED = 0.05
"""Largest share of requests that the engine may refuse, for being too long, say, before the measurement stops."""


@dataclass(frozen=True)
class Sampling:
    """How replies are sampled. None leaves a setting to the engine."""

    samples: int = 2
    temperature: float | None = None
    max_tokens: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Plan:
    """What is measured: every request at every level."""

    levels: Sequence[Level]
    sampling: Sampling
    cap: Cap

    def as_json(self) -> dict[str, Any]:
        """The plan as stored, by which a resumed measurement is recognised."""
        levels = [{**asdict(level), "overrides": level.overrides.model_dump()} for level in self.levels]
        return {"levels": levels, "sampling": asdict(self.sampling), "cap": self.cap}

    def body(self, request: Request, level: Level, sample: int) -> dict[str, Any]:
        """The body of one request at one level."""
        body: dict[str, Any] = {"model": level.model, "messages": [dict(message) for message in request.messages]}
        for name in ("temperature", "max_tokens"):
            if (value := getattr(self.sampling, name)) is not None:
                body[name] = value
        body["seed"] = self.sampling.seed + sample
        body = with_overrides(body, level.overrides)
        return body if level.budget is None else with_cap(body, self.cap, level.budget)

    def forces(self, level: Level) -> bool:
        """Whether the gateway would end the thinking at this level, because the engine does not."""
        return self.cap == "forced" and level.budget is not None and level.thinks


@dataclass(frozen=True)
class Measured:
    """One reply, and what it is a reply to."""

    level: str
    key: str
    """The request's."""
    sample: int
    reply: Reply | None
    """None if the engine refused the request."""


def open_directory(directory: Path, plan: Plan, *, again: bool) -> None:
    """Create the measurement's directory, or check that it is of the same measurement.

    Raises:
        StageError: it is of another measurement, and `again` does not allow to replace it.
    """
    stored = plan.as_json()
    fingerprint = hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()
    path = directory / PLAN
    if path.exists() and not again:
        if json.loads(path.read_text()).get("fingerprint") != fingerprint:
            raise StageError(
                f"{directory}: holds a measurement of other levels or sampling; choose another --work directory, or"
                " start again with --again"
            )
        return
    directory.mkdir(parents=True, exist_ok=True)
    (directory / REPLIES).unlink(missing_ok=True)
    write_json(path, {**stored, "fingerprint": fingerprint})


def load(directory: Path) -> list[Measured]:
    """The replies so far. A line that a kill has torn is left out."""
    path = directory / REPLIES
    if not path.exists():
        return []
    return [row for line in path.read_bytes().split(b"\n") if line and (row := _parsed(line)) is not None]


async def measure(
    engine: Engine,
    requests: Sequence[Request],
    plan: Plan,
    directory: Path,
    on_reply: Callable[[Measured], None] = lambda _: None,
    *,
    separated: bool = False,
) -> list[Measured]:
    """Send what is missing, and return all replies to these requests.

    Args:
        engine: the engine.
        requests: what is measured.
        plan: at which levels.
        directory: where replies are stored.
        on_reply: called with each reply.
        separated: whether the engine puts thinking into a field of its own.

    Raises:
        StageError: the engine failed again and again, or refuses more than `MAX_REFUSED` of the requests.
    """
    known = {(row.level, row.key, row.sample): row for row in load(directory)}
    missing = [
        (level, request, sample)
        for request, level, sample in _order(requests, plan)
        if (level.name, request.key, sample) not in known
    ]
    total = len(requests) * len(plan.levels) * plan.sampling.samples
    refused = sum(row.reply is None for row in known.values())
    with (directory / REPLIES).open("ab") as lines:
        if lines.tell():
            lines.write(b"\n")  # a kill may have torn the last line

        async def send(level: Level, request: Request, sample: int) -> None:
            nonlocal refused
            try:
                body = plan.body(request, level, sample)
                if plan.forces(level):
                    assert level.budget is not None
                    reply = await forced.chat(engine, body, level.budget, separated=separated)
                else:
                    reply = await engine.chat(body)
            except EngineError as error:
                if error.status not in (400, 413, 422):
                    raise
                refused += 1
                if refused > MAX_REFUSED * total:
                    raise StageError(f"{refused} of {total} requests were refused; the last: {error}") from None
                reply = None
            row = Measured(level.name, request.key, sample, reply)
            lines.write(json.dumps(asdict(row)).encode() + b"\n")
            lines.flush()
            known[level.name, request.key, sample] = row
            on_reply(row)

        await _all(send(*one) for one in missing)
    wanted = {request.key for request in requests}
    return [row for row in known.values() if row.key in wanted]


def by_request(rows: Sequence[Measured], opened: Collection[str] = ()) -> dict[str, dict[str, list[Reply | None]]]:
    """The replies by level and request, in the order of the samples.

    Args:
        rows: the replies.
        opened: the levels whose thinking the template opens, without a field of its own.
    """
    grouped: dict[str, dict[str, list[Reply | None]]] = defaultdict(lambda: defaultdict(list))
    for row in sorted(rows, key=lambda row: row.sample):
        reply = cost.all_thinking(row.reply) if row.reply is not None and row.level in opened else row.reply
        grouped[row.level][row.key].append(reply)
    return grouped


def _order(requests: Sequence[Request], plan: Plan) -> Iterator[tuple[Request, Level, int]]:
    """All levels of a request side by side, so that what is there after a kill compares them on the same requests."""
    for request in requests:
        for level in plan.levels:
            for sample in range(plan.sampling.samples):
                yield request, level, sample


async def _all(coroutines: Iterator[Any]) -> None:
    """Run all, and cancel the rest if one fails."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        for done in asyncio.as_completed(tasks):
            await done
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _parsed(line: bytes) -> Measured | None:
    try:
        row: Mapping[str, Any] = json.loads(line)
        reply = row["reply"]
        return Measured(row["level"], row["key"], row["sample"], None if reply is None else Reply(**reply))
    except (ValueError, KeyError, TypeError):
        return None
