"""What did each request cost? One entry per request in a Redis Stream, written behind the request's back, exactly once.

`put` only queues. A single writer task sends what has gathered as one Lua call, which adds an entry to the stream only
if its id is new. While Redis is away entries go to a local append-only spool, and are replayed from there when it is
back; an entry whose first attempt had an unknown outcome is sent again and recognised by its id.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import cast

from pydantic import TypeAdapter, ValidationError
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

log = logging.getLogger(__name__)

STREAM = "laconic:ledger"
IDS = "{laconic:ledger}:ids"  # the braces put it on the stream's shard of a cluster
SPOOL = "ledger.spool.jsonl"
BATCH = 256
CAPACITY = 10_000
RETRY_SECONDS = 1.0
CLOCK_SKEW_SECONDS = 60.0

Page = list[tuple[str, dict[str, str]]]
"""Of a stream, as redis-py decodes it: id, then names and values."""

_ADD = """
local added = 0
for _, line in ipairs(ARGV) do
  local entry = cjson.decode(line)
  if redis.call('SADD', KEYS[2], entry[2]) == 1 then
    redis.call('XADD', KEYS[1], '*', unpack(entry))
    added = added + 1
  end
end
return added
"""


@dataclass(frozen=True)
class Entry:
    """One request, settled. No prompt and no answer."""

    id: str
    time: float
    """Unix seconds at which the request came in."""
    key: str
    """The caller's key, empty where there is none."""
    checkpoint: str
    alpha: float | None
    decision: str
    difficulty: float | None
    budget: int | None
    """Reasoning tokens it might spend; None is unlimited."""
    prompt_tokens: int
    reasoning_tokens: int
    answer_tokens: int
    predicted_tokens: float | None
    """Reasoning tokens expected of the chosen checkpoint under the budget."""
    reference_tokens: float | None
    """Reasoning tokens expected of the reference checkpoint under the same budget."""
    finish_reason: str
    status: int
    """HTTP status; 499 means that the caller left."""
    error: str
    first_token_seconds: float | None
    total_seconds: float


_ENTRY = TypeAdapter(Entry)
_TEXT = {"id", "key", "checkpoint", "decision", "finish_reason", "error"}


class Ledger:
    """The writer. Nothing here fails a request: with Redis dead it spools, and with the disk full it logs."""

    def __init__(self, redis_url: str, state_dir: Path) -> None:
        self._redis = connect(redis_url)
        self._add = self._redis.register_script(_ADD)
        self._spool = state_dir / SPOOL
        self._queue: asyncio.Queue[Entry | None] = asyncio.Queue()
        self._writer: asyncio.Task[None] | None = None
        self._retry_at = 0.0
        self.healthy = False
        """Redis took what it was last given."""
        self.spooled = 0
        """Entries waiting in the spool."""

    async def start(self) -> None:
        """Take up what an earlier process left in the spool and begin to write; Redis need not be there."""
        self._spool.parent.mkdir(parents=True, exist_ok=True)
        if self._spool.exists():
            left = self._spool.read_bytes()
            if not left.endswith(b"\n"):  # torn by a kill: end the line, so that the next entry gets one of its own
                self._append(b"\n")
            self.spooled = left.count(b"\n")
        await self._replay()
        self._writer = asyncio.create_task(self._write(), name="ledger")

    def put(self, entry: Entry) -> None:
        """Note an entry. Returns at once, whatever the state of Redis."""
        if self._queue.qsize() < CAPACITY:
            self._queue.put_nowait(entry)
        else:
            self._to_spool([entry])

    async def aclose(self) -> None:
        """Write what is queued, to Redis or else to the spool, and stop."""
        if self._writer is not None:
            self._queue.put_nowait(None)
            await self._writer
            self._writer = None
        await self._redis.aclose()

    async def _write(self) -> None:
        open_ = True
        while open_:
            batch = await self._gather()
            open_ = None not in batch
            entries = [entry for entry in batch if entry is not None]
            if not self.healthy or not await self._deliver(entries):
                self._to_spool(entries)
            waiting = not self.healthy or self.spooled > 0
            if waiting and (not open_ or asyncio.get_running_loop().time() >= self._retry_at):
                await self._replay()

    async def _gather(self) -> list[Entry | None]:
        """What is queued; waits for a first entry, but no longer than until the spool is to be tried again."""
        batch: list[Entry | None] = []
        waiting = not self.healthy or self.spooled > 0
        with contextlib.suppress(TimeoutError):
            batch.append(await asyncio.wait_for(self._queue.get(), RETRY_SECONDS if waiting else None))
        while len(batch) < BATCH and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return batch

    async def _deliver(self, entries: Sequence[Entry]) -> bool:
        """Send entries to Redis; those it has already are left alone. False when Redis did not take them."""
        try:
            if entries:
                await self._add(keys=[STREAM, IDS], args=[json.dumps(_flat(entry)) for entry in entries])
            else:
                await self._redis.ping()  # pyright: ignore[reportUnknownMemberType]
        except (RedisError, OSError) as error:
            if self.healthy:
                log.warning("the ledger's Redis is away (%s); entries are spooled to %s", error, self._spool)
            self.healthy = False
        else:
            self.healthy = True
        return self.healthy

    def _to_spool(self, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        if self._append(b"".join(json.dumps(asdict(entry)).encode() + b"\n" for entry in entries)):
            self.spooled += len(entries)
        else:
            log.error("up to %d ledger entries are lost", len(entries))

    def _append(self, lines: bytes) -> bool:
        try:
            with self._spool.open("ab") as spool:
                spool.write(lines)
        except OSError as error:
            log.error("the ledger's spool cannot be written: %s", error)
            return False
        return True

    async def _replay(self) -> None:
        """Send the spool and remove it. A kill at any point only means that known ids are sent again."""
        self._retry_at = asyncio.get_running_loop().time() + RETRY_SECONDS
        if not self._spool.exists():
            await self._deliver([])
            self.spooled = 0
            return
        with self._spool.open("rb") as spool:
            while lines := list(islice(spool, BATCH)):
                if not await self._deliver([entry for line in lines if (entry := _parse(line)) is not None]):
                    return
            self._spool.unlink()  # nothing was awaited since the end was read: no entry can have come after it
        log.info("replayed the ledger's spool: %d", self.spooled)
        self.spooled = 0


def connect(url: str) -> Redis:
    """A client that gives up quickly and leaves trying again to its user."""
    return Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
        url, decode_responses=True, socket_connect_timeout=1.0, socket_timeout=2.0, retry=Retry(NoBackoff(), 0)
    )


async def read(redis: Redis, since: float) -> list[Entry]:
    """Every entry of requests that came in at `since` (Unix seconds) or later, in the order they were written."""
    entries: list[Entry] = []
    # An entry is written after its request came in, so the stream's own ids bound the search from below.
    start = str(max(0, int((since - CLOCK_SKEW_SECONDS) * 1000)))
    while page := cast("Page", await redis.xrange(STREAM, min=start, count=1000)):
        for _, values in page:
            entry = _parse({name: value if value or name in _TEXT else None for name, value in values.items()})
            if entry is not None and entry.time >= since:
                entries.append(entry)
        start = f"({page[-1][0]}"
    return entries


def _flat(entry: Entry) -> list[str]:
    """The entry as a stream keeps it: name, value, name, value, ..., with None as the empty string; id comes first."""
    pairs = ((field.name, getattr(entry, field.name)) for field in fields(entry))
    return [text for name, value in pairs for text in (name, "" if value is None else str(value))]


def _parse(stored: bytes | dict[str, str | None]) -> Entry | None:
    """An entry as stored, or None for one that cannot be read: a torn line must not stop the lines after it."""
    try:
        return _ENTRY.validate_json(stored) if isinstance(stored, bytes) else _ENTRY.validate_python(stored)
    except ValidationError as error:
        if stored != b"\n":
            log.warning("an unreadable ledger entry is left out: %s", error.errors()[0]["msg"])
        return None
