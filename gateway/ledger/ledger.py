"""What did each request cost? One entry per request in a Redis Stream, written behind the request's back, exactly once.

`put` only appends to a local spool. A single writer task sends what has gathered there as one Lua call, which takes an
entry only if its id is new: into the stream, which is of bounded length; if it is a holdout into a stream of their own,
since they are few and make the savings' interval; and into sums by hour, which outlive both. While Redis is away the
spool grows, and whatever ends this process, the next one begins with it; an entry whose first attempt had an unknown
outcome is sent again and recognised by its id.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic_core import to_json
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.ledger import entry as entries
from gateway.ledger.entry import Entry
from gateway.ledger.savings import Cell, Totals, cell_of, totals_of
from gateway.store import connect

log = logging.getLogger(__name__)

# The braces put every key on one shard of a cluster.
STREAM = "{laconic:ledger}:entries"
HOLDOUTS = "{laconic:ledger}:holdouts"
HOURS = "{laconic:ledger}:hours"
_IDS = "{{laconic:ledger}}:ids:{day}"
_SUMS = "{{laconic:ledger}}:sums:{hour}"
SPOOL = "ledger.spool.jsonl"
OTHER_SPOOL = "ledger.spool.{}.jsonl"
BATCH = 64
GATHER_SECONDS = 0.02
"""Nobody waits for an entry, and one call to Redis costs more than what is in it."""
READ_BYTES = 1_048_576
MAX_UNSPOOLED = 10_000
MAX_RECENT = 1_000
MAX_HOLDOUTS = 100_000
RETRY_SECONDS = 1.0
HOURS_AT_ONCE = 24
CLOCK_SKEW_SECONDS = 60.0
ID_DAYS = 8
"""How long an entry's id is remembered: one that stays in a spool for longer might be counted twice."""
SUM_DAYS = 400

Line = tuple[bytes, Entry]
"""An entry as the spool has it, and what it says."""
Page = list[tuple[str, dict[str, str]]]
"""Of a stream, as redis-py decodes it: id, then names and values."""

_ADD = """
local stream, holdouts, hours, ids, sums = unpack(KEYS)
local longest, most_holdouts, hour, id_seconds, sum_seconds = unpack(ARGV, 1, 5)
local added = 0
for i = 6, #ARGV do
  local given = cjson.decode(ARGV[i])
  if redis.call('SADD', ids, given.id) == 1 then
    redis.call('XADD', stream, 'MAXLEN', '~', longest, '*', 'entry', given.line)
    if given.holdout then
      redis.call('XADD', holdouts, 'MAXLEN', '~', most_holdouts, '*', 'entry', given.line)
    end
    for _, sum in ipairs(given.sums) do
      redis.call('HINCRBYFLOAT', sums, sum[1], sum[2])
    end
    added = added + 1
  end
end
redis.call('ZADD', hours, hour, hour)
redis.call('EXPIRE', ids, id_seconds)
redis.call('EXPIRE', sums, sum_seconds)
return added
"""


@dataclass(frozen=True)
class LedgerSnapshot:
    """What `savings` sums up: from an hour on, the sums by cell and the entries of the holdouts."""

    since_hour: int
    cells: list[tuple[Cell, Totals]]
    holdouts: list[Entry]


class Ledger:
    """The writer. Nothing here fails a request: with Redis dead it spools, and with the disk full it keeps what it can.

    An entry is in the spool, a file, from the moment it is put until Redis has it: a kill of this process loses none.
    """

    def __init__(self, redis_url: str, state_dir: Path, max_entries: int = 1_000_000, worker: int = 0) -> None:
        """`worker` tells processes apart that share a state directory: each has a spool of its own."""
        self._redis = connect(redis_url)
        self._add = self._redis.register_script(_ADD)
        self._max_entries = max_entries
        self._path = state_dir / (SPOOL if not worker else OTHER_SPOOL.format(worker))
        self._spool: int | None = None
        self._size = self._sent = 0
        """Bytes of the spool, and of those the ones that Redis has."""
        self._lines = 0
        """Of the spool, that Redis does not have."""
        self._torn = False
        """The spool's last line was cut short by a kill; the next entry gets one of its own."""
        self._unspooled: list[Line] = []
        self._recent: dict[bytes, Entry] = {}
        """Of the spool's lines the last ones, which need not be parsed."""
        self._news = asyncio.Event()
        self._closing = False
        self._writer: asyncio.Task[None] | None = None
        self.healthy = False
        """Redis took what it was last given."""

    @property
    def pending(self) -> int:
        """Entries that Redis does not have yet."""
        return self._lines + len(self._unspooled)

    async def start(self) -> None:
        """Begin to write, what an earlier process left in the spool first; Redis need not be there."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._spool = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            left = self._path.read_bytes()
            self._lines = left.count(b"\n")
            self._torn = bool(left) and not left.endswith(b"\n")
            self._size = len(left)
        except OSError as error:
            log.error("the ledger's spool cannot be used: %s", error)
        if self._lines:
            log.info("an earlier process left %d ledger entries in %s", self._lines, self._path)
        await self._deliver([])
        self._news.set()
        self._writer = asyncio.create_task(self._write(), name="ledger")

    def put(self, entry: Entry) -> None:
        """Note an entry. Returns at once, whatever the state of Redis."""
        line = entries.dump(entry).encode() + b"\n"
        if not self._to_spool(line):
            if len(self._unspooled) < MAX_UNSPOOLED:
                self._unspooled.append((line, entry))
            else:
                log.error("a ledger entry is lost: %s", entry.id)
        elif len(self._recent) < MAX_RECENT:
            self._recent[line] = entry
        self._news.set()

    async def snapshot(self, since: float) -> LedgerSnapshot:
        """What Redis has from the hour of `since` (Unix seconds) on.

        Raises:
            RedisError, OSError: Redis is away.
        """
        return await read_snapshot(self._redis, since)

    async def aclose(self) -> None:
        """Give Redis what is waiting, or else leave it in the spool, and stop."""
        if self._writer is not None:
            self._closing = True
            self._news.set()
            await self._writer
            self._writer = None
        for line, entry in self._unspooled:
            if not self._to_spool(line):
                log.error("a ledger entry is lost: %s", entry.id)
        if self._spool is not None:
            empty = os.fstat(self._spool).st_size == 0
            os.close(self._spool)
            self._spool = None
            if empty:
                self._path.unlink(missing_ok=True)
        await self._redis.aclose()

    async def _write(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), None if self.healthy else RETRY_SECONDS)
            if self.healthy and not self._closing:
                await asyncio.sleep(GATHER_SECONDS)
            self._news.clear()
            try:
                drained = await self._drain()
            except OSError as error:
                log.error("the ledger's spool cannot be read: %s", error)
                drained = self.healthy = False
            if self._closing:
                return
            if not drained:
                await asyncio.sleep(RETRY_SECONDS)

    async def _drain(self) -> bool:
        """Send what is waiting. A kill at any point only means that known ids are sent again."""
        while lines := self._next_lines():
            parsed = [(line, self._recent.get(line) or _parse(line)) for line in lines]
            if not await self._deliver([(line, entry) for line, entry in parsed if entry is not None]):
                return False
            for line in lines:
                self._recent.pop(line, None)
            self._sent += sum(map(len, lines))
            self._lines -= len(lines)
        given, self._unspooled = self._unspooled, []
        if not await self._deliver(given):
            self._unspooled = given + self._unspooled
            return False
        # Nothing is put between the look at the size and the cut: there is no await.
        if self._spool is not None and 0 < self._size == self._sent:
            os.ftruncate(self._spool, 0)
            self._size = self._sent = 0
        return True

    def _next_lines(self) -> list[bytes]:
        if self._spool is None:
            return []
        size = READ_BYTES
        while True:
            block = os.pread(self._spool, size, self._sent)
            whole, end, _ = block.rpartition(b"\n")
            if end or len(block) < size:
                return [line + b"\n" for line in whole.split(b"\n")][:BATCH] if end else []
            size *= 2  # a line longer than that is none of ours, and must not stand in the way of those behind it

    def _to_spool(self, line: bytes) -> bool:
        if not self._append(b"\n" + line if self._torn else line):
            return False
        self._lines += 1 + self._torn
        self._torn = False
        return True

    def _append(self, line: bytes) -> bool:
        if self._spool is None:
            return False
        try:
            if os.write(self._spool, line) < len(line):
                os.ftruncate(self._spool, self._size)
                raise OSError("the disk is full")
            self._size += len(line)
        except OSError as error:
            log.error("the ledger's spool cannot be written: %s", error)
            return False
        return True

    async def _deliver(self, batch: Sequence[Line]) -> bool:
        """Send entries to Redis; those it has already are left alone. False when Redis did not take them."""
        try:
            hours: defaultdict[int, list[bytes]] = defaultdict(list)
            for line, entry in batch:
                hours[cell_of(entry).hour].append(_addition(line, entry))
            for hour, additions in hours.items():
                keys = [STREAM, HOLDOUTS, HOURS, _IDS.format(day=hour // 24), _SUMS.format(hour=hour)]
                await self._add(
                    keys=keys,
                    args=[self._max_entries, MAX_HOLDOUTS, hour, ID_DAYS * 86_400, SUM_DAYS * 86_400, *additions],
                )
            if not batch and not self.healthy:
                await self._redis.ping()  # pyright: ignore[reportUnknownMemberType]
        except (RedisError, OSError) as error:
            if self.healthy:
                log.warning("the ledger's Redis is away (%s); entries are spooled to %s", error, self._path)
            self.healthy = False
        else:
            self.healthy = True
        return self.healthy


def merge_spools(state_dir: Path) -> None:
    """Into the first worker's spool what other workers left: there may be fewer of them now. None may be running."""
    for other in state_dir.glob(OTHER_SPOOL.format("*")):
        with (state_dir / SPOOL).open("ab") as first:
            first.write(b"\n" + other.read_bytes())  # the first's last line may be torn
            os.fsync(first.fileno())
        other.unlink()


def count_pending(state_dir: Path) -> int:
    """Entries in all spools, those that are just being sent included."""
    return sum(file.read_bytes().count(b"\n") for file in state_dir.glob("ledger.spool*.jsonl"))


async def read_entries(redis: Redis, since: float, stream: str = STREAM) -> AsyncIterator[Entry]:
    """Every entry of requests that came in at `since` (Unix seconds) or later, in the order they were written."""
    # An entry is written after its request came in, so the stream's own ids bound the search from below.
    start = str(max(0, int((since - CLOCK_SKEW_SECONDS) * 1000)))
    while page := cast("Page", await redis.xrange(stream, min=start, count=1000)):
        for _, values in page:
            entry = _parse(values["entry"])
            if entry is not None and entry.time >= since:
                yield entry
        start = f"({page[-1][0]}"


async def read_snapshot(redis: Redis, since: float) -> LedgerSnapshot:
    """The books from the hour of `since` (Unix seconds) on."""
    since_hour = int(since // 3600)
    known = await redis.zrangebyscore(HOURS, since_hour, "+inf")  # pyright: ignore[reportUnknownMemberType]
    hours = [int(hour) for hour in cast("list[str]", known)]
    cells: list[tuple[Cell, Totals]] = []
    for some in (hours[i : i + HOURS_AT_ONCE] for i in range(0, len(hours), HOURS_AT_ONCE)):
        pipeline = redis.pipeline(transaction=False)
        for hour in some:
            pipeline.hgetall(_SUMS.format(hour=hour))
        for hour, sums in zip(some, await pipeline.execute(), strict=True):
            cells += _cells(hour, sums)
    holdouts = [entry async for entry in read_entries(redis, since_hour * 3600.0, HOLDOUTS)]
    return LedgerSnapshot(since_hour, cells, holdouts)


def _addition(line: bytes, entry: Entry) -> bytes:
    """An entry as the script takes it."""
    _, *cell = cell_of(entry)
    field = json.dumps(cell)[:-1]
    amounts = zip(Totals._fields, totals_of(entry), strict=True)
    sums = [[f'{field}, "{name}"]', repr(amount)] for name, amount in amounts if amount]
    kept = line.rstrip(b"\n").decode()
    return to_json({"id": entry.id, "line": kept, "holdout": entry.holdout, "sums": sums})


def _cells(hour: int, sums: dict[str, str]) -> list[tuple[Cell, Totals]]:
    """An hour's sums by cell."""
    amounts: defaultdict[Cell, dict[str, Any]] = defaultdict(dict)
    for field, amount in sums.items():
        key, checkpoint, difficulty, fraction, name = json.loads(field)
        if name not in Totals._fields:  # of another version
            continue
        number = float(amount)
        amounts[Cell(hour, key, checkpoint, difficulty, fraction)][name] = (
            int(number) if number.is_integer() else number
        )
    return [(cell, Totals(**found)) for cell, found in amounts.items()]


def _parse(line: str | bytes) -> Entry | None:
    """An entry as stored, or None for one that cannot be read: a torn line must not stop the lines after it."""
    try:
        return entries.parse(line)
    except ValueError as error:
        if line != b"\n":
            log.warning("an unreadable ledger entry is left out: %s", error)
        return None
