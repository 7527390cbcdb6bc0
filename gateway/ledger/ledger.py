"""What did each request cost? One entry per request in a Redis Stream, written in the background and counted once.

`put` only appends the entry to a local spool file. A single writer task sends the spooled entries to Redis in batches.
One Lua call adds each entry whose id is new: to a stream of bounded length, to sums by hour that outlive the stream,
and, for a holdout, to a second stream, because holdouts are few and determine the interval of the savings. While Redis
is down the spool grows. The next process continues with the spool that a process leaves behind. An entry that may or
may not have been written is sent again, and recognised by its id.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, cast

from pydantic_core import to_json
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.ledger import entry as entries
from gateway.ledger.entry import Entry
from gateway.ledger.savings import Cell, Totals, cell_of, totals_of
from gateway.store import connect
from gateway.supervision import BackgroundTask
from models.files import open_regular

log = logging.getLogger(__name__)

# The braces put all keys on one shard of a Redis cluster.
STREAM = "{laconic:ledger}:entries"
HOLDOUTS = "{laconic:ledger}:holdouts"
HOURS = "{laconic:ledger}:hours"
_IDS = "{{laconic:ledger}}:ids:{day}"
_SUMS = "{{laconic:ledger}}:sums:{hour}"
SPOOL = "ledger.spool.jsonl"
OTHER_SPOOL = "ledger.spool.{}.jsonl"
BATCH = 64
GATHER_SECONDS = 0.02
"""How long to gather entries before a call. Nobody waits for an entry, and a call costs more than its entries."""
READ_BYTES = 1_048_576
MAX_LINE_BYTES = READ_BYTES
"""A longer line in the spool is no entry."""
MAX_UNSPOOLED = 10_000
MAX_RECENT = 1_000
MAX_HOLDOUTS = 100_000
RETRY_SECONDS = 1.0
HOURS_AT_ONCE = 24
CLOCK_SKEW_SECONDS = 60.0
ID_DAYS = 8
"""How long an entry's id is remembered. An entry that stays in a spool for longer could be counted twice."""
SUM_DAYS = 400

Line = tuple[bytes, Entry]
"""An entry as bytes, and parsed."""
Page = list[tuple[str, dict[str, str]]]
"""Part of a stream as redis-py decodes it: ids, each with its fields."""

_ADD = """
local stream, holdouts, hours, ids, sums = unpack(KEYS)
local max_entries, max_holdouts, hour, id_seconds, sum_seconds = unpack(ARGV, 1, 5)
local added = 0
for i = 6, #ARGV do
  local entry = cjson.decode(ARGV[i])
  if redis.call('SADD', ids, entry.id) == 1 then
    redis.call('XADD', stream, 'MAXLEN', '~', max_entries, '*', 'entry', entry.line)
    if entry.holdout then
      redis.call('XADD', holdouts, 'MAXLEN', '~', max_holdouts, '*', 'entry', entry.line)
    end
    for _, sum in ipairs(entry.sums) do
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
    """What `compute_savings` needs, from `since_hour` on: the sums by cell, and the entries of the holdouts."""

    since_hour: int
    cells: list[tuple[Cell, Totals]]
    holdouts: list[Entry]


class Ledger:
    """Writes entries to Redis. It never fails a request: without Redis it spools, on a full disk it buffers in memory.

    An entry is in the spool file from `put` until Redis has it, so killing this process does not lose it.
    """

    def __init__(self, redis_url: str, state_dir: Path, max_entries: int = 1_000_000, worker: int = 0) -> None:
        """`worker` numbers the processes that share a state directory; each has its own spool."""
        self._redis = connect(redis_url)
        self._add = self._redis.register_script(_ADD)
        self._max_entries = max_entries
        self._path = state_dir / (SPOOL if not worker else OTHER_SPOOL.format(worker))
        self._spool: int | None = None
        self._size = self._sent = 0
        """Bytes in the spool, and how many of them Redis has."""
        self._lines = 0
        """Lines in the spool that Redis does not have."""
        self._torn = False
        """Whether the spool's last line is incomplete because of a kill; the next entry then starts a new line."""
        self._unspooled: list[Line] = []
        self._recent: dict[bytes, Entry] = {}
        """The most recent lines of the spool, so that they need not be parsed again."""
        self._wake_up = asyncio.Event()
        self._closing = False
        self._writer: BackgroundTask | None = None
        self.healthy = False
        """Whether the last write to Redis succeeded."""

    @property
    def pending(self) -> int:
        """Entries that Redis does not have yet."""
        return self._lines + len(self._unspooled)

    async def start(self) -> None:
        """Start writing, beginning with what an earlier process left in the spool. Redis need not be up."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._spool = open_regular(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW)
            last = b"\n"
            for last in _blocks(self._path):
                self._lines += last.count(b"\n")
                self._size += len(last)
            self._torn = not last.endswith(b"\n")
        except OSError as error:
            log.error("cannot use the ledger's spool: %s", error)
        if self._lines:
            log.info("an earlier process left %d ledger entries in %s", self._lines, self._path)
        await self._deliver([])
        self._writer = BackgroundTask("ledger", self._write)

    def put(self, entry: Entry) -> None:
        """Record an entry. Returns at once, whether Redis is up or not."""
        line = entries.dump(entry).encode() + b"\n"
        if not self._append_line(line):
            if len(self._unspooled) < MAX_UNSPOOLED:
                self._unspooled.append((line, entry))
            else:
                log.error("a ledger entry is lost: %s", entry.id)
        elif len(self._recent) < MAX_RECENT:
            self._recent[line] = entry
        self._wake_up.set()

    async def snapshot(self, since: float) -> LedgerSnapshot:
        """Read what Redis has from the hour of `since` (Unix seconds) on.

        Raises:
            RedisError, OSError: Redis is down.
        """
        return await read_snapshot(self._redis, since)

    async def aclose(self) -> None:
        """Send pending entries to Redis, or leave them in the spool, and stop."""
        if self._writer is not None:
            self._closing = True
            self._wake_up.set()
            await self._writer.finish()
            self._writer = None
        for line, entry in self._unspooled:
            if not self._append_line(line):
                log.error("a ledger entry is lost: %s", entry.id)
        if self._spool is not None:
            empty = os.fstat(self._spool).st_size == 0
            os.close(self._spool)
            self._spool = None
            if empty:
                self._path.unlink(missing_ok=True)
        await self._redis.aclose()

    async def _write(self) -> None:
        self._wake_up.set()  # an earlier process, or a fault of this task, may have left entries
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake_up.wait(), None if self.healthy else RETRY_SECONDS)
            if self.healthy and not self._closing:
                await asyncio.sleep(GATHER_SECONDS)
            self._wake_up.clear()
            try:
                drained = await self._drain()
            except OSError as error:
                log.error("cannot read the ledger's spool: %s", error)
                drained = self.healthy = False
            if self._closing:
                return
            if not drained:
                await asyncio.sleep(RETRY_SECONDS)

    async def _drain(self) -> bool:
        """Send pending entries, and return whether all were sent. A kill at any point only makes some be sent again."""
        while lines := await self._next_lines():
            parsed = [(line, self._recent.get(line) or _parse(line)) for line in lines]
            if not await self._deliver([(line, entry) for line, entry in parsed if entry is not None]):
                return False
            for line in lines:
                self._recent.pop(line, None)
            self._sent += sum(map(len, lines))
            self._lines -= len(lines)
        unspooled, self._unspooled = self._unspooled, []
        if not await self._deliver(unspooled):
            self._unspooled = unspooled + self._unspooled
            return False
        # No entry can be added between the check of the size and the truncation: there is no await.
        if self._spool is not None and 0 < self._size == self._sent:
            os.ftruncate(self._spool, 0)
            self._size = self._sent = 0
        return True

    async def _next_lines(self) -> list[bytes]:
        size = READ_BYTES
        while self._spool is not None:
            block = os.pread(self._spool, size, self._sent)
            complete, newline, _ = block.rpartition(b"\n")
            if newline or len(block) < size:
                return [line + b"\n" for line in complete.split(b"\n")][:BATCH] if newline else []
            if size < MAX_LINE_BYTES:
                size *= 2
            else:
                await self._skip_line(self._spool)
        return []

    async def _skip_line(self, spool: int) -> None:
        """Pass over a line that is too long for an entry, without holding it in memory."""
        began = self._sent
        while block := os.pread(spool, READ_BYTES, self._sent):
            skipped, newline, _ = block.partition(b"\n")
            self._sent += len(skipped) + len(newline)
            if newline:
                self._lines -= 1
                break
            await asyncio.sleep(0)  # a gigabyte takes a second
        log.warning("skipping %d bytes in %s that are no ledger entry", self._sent - began, self._path)

    def _append_line(self, line: bytes) -> bool:
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
            log.error("cannot write the ledger's spool: %s", error)
            return False
        return True

    async def _deliver(self, batch: Sequence[Line]) -> bool:
        """Send entries to Redis, which skips those it has. Returns whether Redis accepted them."""
        try:
            hours: defaultdict[int, list[bytes]] = defaultdict(list)
            for line, entry in batch:
                hours[cell_of(entry).hour].append(_script_argument(line, entry))
            for hour, arguments in hours.items():
                keys = [STREAM, HOLDOUTS, HOURS, _IDS.format(day=hour // 24), _SUMS.format(hour=hour)]
                await self._add(
                    keys=keys,
                    args=[self._max_entries, MAX_HOLDOUTS, hour, ID_DAYS * 86_400, SUM_DAYS * 86_400, *arguments],
                )
            if not batch and not self.healthy:
                await self._redis.ping()  # pyright: ignore[reportUnknownMemberType]
        except (RedisError, OSError) as error:
            if self.healthy:
                log.warning("Redis is down (%s); ledger entries are spooled to %s", error, self._path)
            self.healthy = False
        else:
            self.healthy = True
        return self.healthy


def merge_spools(state_dir: Path) -> None:
    """Move what other workers left in their spools to the first worker's: there may be fewer workers now.

    No worker may be running. What cannot be moved, because the disk is full, is left for the next start.
    """
    for other in state_dir.glob(OTHER_SPOOL.format("*")):
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            with os.fdopen(open_regular(state_dir / SPOOL, flags), "ab", buffering=0) as spool:
                size = spool.seek(0, os.SEEK_END)
                try:
                    for block in chain((b"\n",), _blocks(other)):  # the last line of the first spool may be torn
                        if spool.write(block) < len(block):
                            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    os.fsync(spool.fileno())
                except OSError:
                    spool.truncate(size)
                    raise
            other.unlink()
        except OSError as error:
            log.error("the ledger entries in %s must wait: %s", other, error)


def count_pending(state_dir: Path) -> int:
    """How many entries all spools hold, including those that are just being sent."""
    return sum(
        block.count(b"\n")
        for file in state_dir.glob("ledger.spool*.jsonl")
        if file.is_file()
        for block in _blocks(file)
    )


def _blocks(file: Path) -> Iterator[bytes]:
    """A file's bytes, a block at a time: nobody knows how large it has grown."""
    with os.fdopen(open_regular(file), "rb", buffering=0) as stream:
        while block := stream.read(READ_BYTES):
            yield block


async def read_entries(redis: Redis, since: float, stream: str = STREAM) -> AsyncIterator[Entry]:
    """Yield the entries of requests that arrived at `since` (Unix seconds) or later, in the order of writing."""
    # An entry is written after its request arrived, so the stream's ids, which are times, give a lower bound.
    start = str(max(0, int((since - CLOCK_SKEW_SECONDS) * 1000)))
    while page := cast("Page", await redis.xrange(stream, min=start, count=1000)):
        for _, values in page:
            entry = _parse(values["entry"])
            if entry is not None and entry.time >= since:
                yield entry
        start = f"({page[-1][0]}"


async def read_snapshot(redis: Redis, since: float) -> LedgerSnapshot:
    """Read the sums and holdouts from the hour of `since` (Unix seconds) on."""
    since_hour = int(since // 3600)
    recorded_hours = await redis.zrangebyscore(HOURS, since_hour, "+inf")  # pyright: ignore[reportUnknownMemberType]
    hours = [int(hour) for hour in cast("list[str]", recorded_hours)]
    cells: list[tuple[Cell, Totals]] = []
    for batch in (hours[i : i + HOURS_AT_ONCE] for i in range(0, len(hours), HOURS_AT_ONCE)):
        pipeline = redis.pipeline(transaction=False)
        for hour in batch:
            pipeline.hgetall(_SUMS.format(hour=hour))
        for hour, sums in zip(batch, await pipeline.execute(), strict=True):
            cells += _cells(hour, sums)
    holdouts = [entry async for entry in read_entries(redis, since_hour * 3600.0, HOLDOUTS)]
    return LedgerSnapshot(since_hour, cells, holdouts)


def _script_argument(line: bytes, entry: Entry) -> bytes:
    """An entry as the Lua script expects it."""
    _, *cell = cell_of(entry)
    field = json.dumps(cell)[:-1]
    amounts = zip(Totals._fields, totals_of(entry), strict=True)
    sums = [[f'{field}, "{name}"]', repr(amount)] for name, amount in amounts if amount]
    text = line.rstrip(b"\n").decode()
    return to_json({"id": entry.id, "line": text, "holdout": entry.holdout, "sums": sums})


def _cells(hour: int, sums: dict[str, str]) -> list[tuple[Cell, Totals]]:
    """Parse an hour's sums into totals by cell."""
    amounts: defaultdict[Cell, dict[str, Any]] = defaultdict(dict)
    for field, amount in sums.items():
        key, checkpoint, difficulty, fraction, name = json.loads(field)
        if name not in Totals._fields:  # from another version
            continue
        number = float(amount)
        amounts[Cell(hour, key, checkpoint, difficulty, fraction)][name] = (
            int(number) if number.is_integer() else number
        )
    return [(cell, Totals(**fields)) for cell, fields in amounts.items()]


def _parse(line: str | bytes) -> Entry | None:
    """Parse a stored entry. Returns None if it cannot be read: a torn line must not block the lines after it."""
    try:
        return entries.parse(line)
    except ValueError as error:
        if line != b"\n":
            log.warning("skipping a ledger entry that cannot be read: %s", error)
        return None
