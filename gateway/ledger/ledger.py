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
import json
import logging
import math
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
from gateway.ledger.spool import Spool
from gateway.ledger.usage import Line as UsageLine
from gateway.ledger.usage import Usage, usage_of
from gateway.store import connect
from gateway.supervision import BackgroundTask

log = logging.getLogger(__name__)

# The braces put all keys on one shard of a Redis cluster.
STREAM = "{laconic:ledger}:entries"
HOLDOUTS = "{laconic:ledger}:holdouts"
HOURS = "{laconic:ledger}:hours"
PLACES = "{{laconic:ledger}}:places:{day}"
"""By the id of each request that arrived on that day: where its entry is in the stream."""
_IDS = "{{laconic:ledger}}:ids:{day}"
"""Ids alone, as an earlier version kept them."""
_SUMS = "{{laconic:ledger}}:sums:{hour}"
_USAGE = "{{laconic:ledger}}:usage:{hour}"
"""Whole numbers by key, team, checkpoint and more, which add up to the entries exactly."""
GATHER_SECONDS = 0.02
"""How long to gather entries before a call. Nobody waits for an entry, and a call costs more than its entries."""
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
local stream, holdouts, hours, places, sums, ids, usage = unpack(KEYS)
local max_entries, max_holdouts, hour, id_seconds, sum_seconds = unpack(ARGV, 1, 5)
local added = 0
for i = 6, #ARGV do
  local entry = cjson.decode(ARGV[i])
  if redis.call('HEXISTS', places, entry.id) == 0 and redis.call('SISMEMBER', ids, entry.id) == 0 then
    local place = redis.call('XADD', stream, 'MAXLEN', '~', max_entries, '*', 'entry', entry.line)
    redis.call('HSET', places, entry.id, place)
    if entry.holdout then
      redis.call('XADD', holdouts, 'MAXLEN', '~', max_holdouts, '*', 'entry', entry.line)
    end
    for _, sum in ipairs(entry.sums) do
      redis.call('HINCRBYFLOAT', sums, sum[1], sum[2])
    end
    for _, line in ipairs(entry.usage) do
      for name, amount in pairs(line[2]) do  -- one that overflows must not hold up the ledger
        redis.pcall('HINCRBY', usage, line[1] .. ', "' .. name .. '"]', amount)
      end
    end
    added = added + 1
  end
end
redis.call('ZADD', hours, hour, hour)
redis.call('EXPIRE', places, id_seconds)
redis.call('EXPIRE', sums, sum_seconds)
redis.call('EXPIRE', usage, sum_seconds)
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

    An entry is in the spool file from `put` until Redis has it, so killing this process does not lose it. Only if the
    disk is full and Redis is down together, entries are in memory alone; `safe` is false while new ones would be.
    """

    def __init__(self, redis_url: str, state_dir: Path, max_entries: int = 1_000_000, worker: int = 0) -> None:
        """`worker` numbers the processes that share a state directory; each has its own spool."""
        self._redis = connect(redis_url)
        self._add = self._redis.register_script(_ADD)
        self._max_entries = max_entries
        self._spool = Spool(state_dir, worker)
        self._unspooled: list[Line] = []
        """Entries that are only in memory."""
        self.lost = 0
        """Entries that were lost, because neither Redis nor the disk nor the memory had room for them."""
        self._was_safe, self._had_fault = True, False
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
        return self._spool.lines + len(self._unspooled)

    @property
    def in_memory(self) -> int:
        """Those of them that a kill of this process would lose."""
        return len(self._unspooled)

    @property
    def safe(self) -> bool:
        """Whether a new entry would survive a kill: the spool can be written, or Redis takes entries at once."""
        return not self._spool.fault or self.healthy

    async def start(self) -> None:
        """Start writing, beginning with what an earlier process left in the spool. Redis need not be up."""
        self._spool.open()
        if self._spool.fault:
            log.error("cannot use the ledger's spool: %s", self._spool.fault)
        if self._spool.lines:
            log.info("an earlier process left %d ledger entries in %s", self._spool.lines, self._spool.path)
        await self._deliver([])
        self._tell()
        self._writer = BackgroundTask("ledger", self._write)

    def put(self, entry: Entry) -> None:
        """Record an entry. Returns at once, whether Redis is up or not."""
        line = entries.dump(entry).encode() + b"\n"
        if self._spool.append(line):
            if len(self._recent) < MAX_RECENT:
                self._recent[line] = entry
        else:
            if len(self._unspooled) < MAX_UNSPOOLED:
                self._unspooled.append((line, entry))
            else:
                self._lose(entry)
            self._tell()
        self._wake_up.set()

    @property
    def redis(self) -> Redis:
        """The client of the ledger's Redis, for what is stored beside the entries."""
        return self._redis

    async def aclose(self) -> None:
        """Send pending entries to Redis, or leave them in the spool, and stop."""
        if self._writer is not None:
            self._closing = True
            self._wake_up.set()
            await self._writer.finish()
            self._writer = None
        self._spool_unspooled()
        for _, entry in self._unspooled:
            self._lose(entry)
        self._spool.close()
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
            if not drained:
                self._spool_unspooled()
            self._tell()
            if self._closing:
                return
            if not drained:
                await asyncio.sleep(RETRY_SECONDS)

    async def _drain(self) -> bool:
        """Send pending entries, and return whether all were sent. A kill at any point only makes some be sent again."""
        while lines := await self._spool.next_lines():
            parsed = [(line, self._recent.get(line) or parse_line(line)) for line in lines]
            if not await self._deliver([(line, entry) for line, entry in parsed if entry is not None]):
                return False
            for line in lines:
                self._recent.pop(line, None)
            self._spool.sent(lines)
        unspooled = list(self._unspooled)  # they stay there until Redis has them
        if not await self._deliver(unspooled):
            return False
        del self._unspooled[: len(unspooled)]
        self._spool.empty_if_sent()
        return True

    def _spool_unspooled(self) -> None:
        """Write the entries that are only in memory to the spool, as far as there is room again."""
        if self._spool.fault:
            self._spool.probe()
        while not self._spool.fault and self._unspooled and self._spool.append(self._unspooled[0][0]):
            del self._unspooled[0]

    def _lose(self, entry: Entry) -> None:
        self.lost += 1
        log.error("a ledger entry is lost: %s", entry.id)

    def _tell(self) -> None:
        """Log one line when entries begin to be in memory only, or the spool to fail, and one when that is over."""
        if bool(self._spool.fault) != self._had_fault:
            self._had_fault = not self._had_fault
            log.warning("the ledger's spool %s", f"fails: {self._spool.fault}" if self._had_fault else "works again")
        if self.safe == self._was_safe:
            return
        self._was_safe = self.safe
        if self.safe:
            log.warning("the ledger's entries are safe again; %d were lost", self.lost)
        else:
            log.error(
                "ledger entries are only in memory, and a kill would lose them: Redis is down, and %s cannot be"
                " written (%s)", self._spool.path, self._spool.fault,
            )  # fmt: skip

    async def _deliver(self, batch: Sequence[Line]) -> bool:
        """Send entries to Redis, which skips those it has. Returns whether Redis accepted them."""
        try:
            hours: defaultdict[int, list[bytes]] = defaultdict(list)
            for line, entry in batch:
                hours[cell_of(entry).hour].append(_script_argument(line, entry))
            for hour, arguments in hours.items():
                by_day = (PLACES.format(day=hour // 24), _SUMS.format(hour=hour), _IDS.format(day=hour // 24))
                keys = [STREAM, HOLDOUTS, HOURS, *by_day, _USAGE.format(hour=hour)]
                await self._add(
                    keys=keys,
                    args=[self._max_entries, MAX_HOLDOUTS, hour, ID_DAYS * 86_400, SUM_DAYS * 86_400, *arguments],
                )
            if not batch and not self.healthy:
                await self._redis.ping()  # pyright: ignore[reportUnknownMemberType]
        except (RedisError, OSError) as error:
            if self.healthy:
                log.warning("Redis is down (%s); ledger entries are spooled to %s", error, self._spool.path)
            self.healthy = False
        else:
            self.healthy = True
        return self.healthy


async def read_entries(redis: Redis, since: float, stream: str = STREAM) -> AsyncIterator[Entry]:
    """Yield the entries of requests that arrived at `since` (Unix seconds) or later, in the order of writing."""
    # An entry is written after its request arrived, so the stream's ids, which are times, give a lower bound.
    start = str(max(0, int((since - CLOCK_SKEW_SECONDS) * 1000)))
    while page := cast("Page", await redis.xrange(stream, min=start, count=1000)):
        for _, values in page:
            entry = parse_line(values["entry"])
            if entry is not None and entry.time >= since:
                yield entry
        start = f"({page[-1][0]}"


async def read_snapshot(redis: Redis, since: float) -> LedgerSnapshot:
    """Read the sums and holdouts from the hour of `since` (Unix seconds) on."""
    since_hour = int(since // 3600)
    cells = await read_cells(redis, since)
    holdouts = [entry async for entry in read_entries(redis, since_hour * 3600.0, HOLDOUTS)]
    return LedgerSnapshot(since_hour, cells, holdouts)


async def read_books(
    redis: Redis, since: float, *, priced: bool
) -> tuple[LedgerSnapshot, list[tuple[UsageLine, Usage]]]:
    """Read the snapshot and, if `priced`, the usage, from the hour of `since` (Unix seconds) on."""
    # The usage says how many holdouts there must be, so it comes first: one that arrives in between is then one more
    # than needed. Read last, it would count a holdout that is not there, and no hour until then could be measured.
    lines = await read_usage(redis, since) if priced else []
    return await read_snapshot(redis, since), lines


async def read_cells(redis: Redis, since: float) -> list[tuple[Cell, Totals]]:
    """Read the sums by cell from the hour of `since` (Unix seconds) on."""
    return [cell async for hour, sums in _hourly(redis, _SUMS, since) for cell in _cells(hour, sums)]


async def read_usage(redis: Redis, since: float, until: float = math.inf) -> list[tuple[UsageLine, Usage]]:
    """Read the usage by line, of the hours that begin at the hour of `since` or later, and before `until`."""
    found: list[tuple[UsageLine, Usage]] = []
    async for hour, sums in _hourly(redis, _USAGE, since, until):
        amounts: defaultdict[UsageLine, dict[str, int]] = defaultdict(dict)
        for field, amount in sums.items():
            *line, name = json.loads(field)
            if name in Usage._fields:  # else from another version
                amounts[UsageLine(hour, *line)][name] = int(amount)
        found += [(line, Usage(**fields)) for line, fields in amounts.items()]
    return found


async def _hourly(
    redis: Redis, name: str, since: float, until: float = math.inf
) -> AsyncIterator[tuple[int, dict[str, str]]]:
    """Yield the hours of a window, each with its hash of that name."""
    recorded_hours = await redis.zrangebyscore(HOURS, int(since // 3600), "+inf")  # pyright: ignore[reportUnknownMemberType]
    hours = [int(hour) for hour in cast("list[str]", recorded_hours) if int(hour) * 3600 < until]
    for batch in (hours[i : i + HOURS_AT_ONCE] for i in range(0, len(hours), HOURS_AT_ONCE)):
        pipeline = redis.pipeline(transaction=False)
        for hour in batch:
            pipeline.hgetall(name.format(hour=hour))
        for hour, sums in zip(batch, await pipeline.execute(), strict=True):
            yield hour, sums


def _script_argument(line: bytes, entry: Entry) -> bytes:
    """An entry as the Lua script expects it."""
    cell = cell_of(entry)
    field = json.dumps(cell[1:])[:-1]
    amounts = zip(Totals._fields, totals_of(entry), strict=True)
    sums = [[f'{field}, "{name}"]', repr(amount)] for name, amount in amounts if amount]
    # As text, because whole numbers are floats in Lua.
    usage = [
        (
            json.dumps(of[1:])[:-1],
            {name: str(amount) for name, amount in zip(Usage._fields, used, strict=True) if amount},
        )
        for of, used in usage_of(entry, cell)
    ]
    text = line.rstrip(b"\n").decode()
    return to_json({"id": entry.id, "line": text, "holdout": entry.holdout, "sums": sums, "usage": usage})


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


def parse_line(line: str | bytes) -> Entry | None:
    """Parse a stored entry. Returns None if it cannot be read: a torn line must not block the lines after it."""
    try:
        return entries.parse(line)
    except ValueError as error:
        if line != b"\n":
            log.warning("skipping a ledger entry that cannot be read: %s", error)
        return None
