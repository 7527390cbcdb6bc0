"""Which entries does Redis not have yet? The spool: a file of lines that survives a kill, of bounded use of memory."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from models.files import open_regular

log = logging.getLogger(__name__)

SPOOL = "ledger.spool.jsonl"
OTHER_SPOOL = "ledger.spool.{}.jsonl"
BATCH = 64
READ_BYTES = 1_048_576
MAX_LINE_BYTES = READ_BYTES
"""A longer line in the spool is no entry."""
_PROBE = b"\n" * 4096


class Spool:
    """One process' spool. What cannot be written is reported by `append`, and never raised."""

    def __init__(self, state_dir: Path, worker: int = 0) -> None:
        """`worker` numbers the processes that share a state directory; each has its own spool."""
        self.path = state_dir / (SPOOL if not worker else OTHER_SPOOL.format(worker))
        self.lines = 0
        """Lines that Redis does not have."""
        self.fault = "it was not opened"
        """Why the last write failed; empty if it succeeded."""
        self._file: int | None = None
        self._size = self._sent = 0
        """Bytes in the file, and how many of them Redis has."""
        self._torn = False
        """Whether the last line is incomplete because of a kill; the next entry then starts a new line."""

    def open(self) -> None:
        """Open the file, and count what an earlier process left in it."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open_regular(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW)
            last = b"\n"
            for last in _blocks(self.path):
                self.lines += last.count(b"\n")
                self._size += len(last)
            self._torn = not last.endswith(b"\n")
            self.fault = ""
        except OSError as error:
            self.fault = str(error)

    def append(self, line: bytes) -> bool:
        """Add a line, and return whether it is in the file."""
        if not self._write(b"\n" + line if self._torn else line):
            return False
        self.lines += 1 + self._torn
        self._torn = False
        return True

    def probe(self) -> None:
        """After a failure: find out whether the file can be written again."""
        if self._file is None:
            self.open()
        elif self._write(_PROBE):
            self._size -= len(_PROBE)
            os.ftruncate(self._file, self._size)

    async def next_lines(self) -> list[bytes]:
        """The oldest lines that Redis does not have. Tell `sent` when it has them."""
        size = READ_BYTES
        while self._file is not None:
            block = os.pread(self._file, size, self._sent)
            complete, newline, _ = block.rpartition(b"\n")
            if newline or len(block) < size:
                return [line + b"\n" for line in complete.split(b"\n")][:BATCH] if newline else []
            if size < MAX_LINE_BYTES:
                size *= 2
            else:
                await self._skip_line(self._file)
        return []

    def sent(self, lines: list[bytes]) -> None:
        """Redis has these lines."""
        self._sent += sum(map(len, lines))
        self.lines -= len(lines)

    def empty_if_sent(self) -> None:
        """Truncate the file if Redis has all of it. Nothing is added meanwhile, because nothing is awaited."""
        if self._file is not None and 0 < self._size == self._sent:
            os.ftruncate(self._file, 0)
            self._size = self._sent = 0

    def close(self) -> None:
        """Close the file, and remove it if it is empty."""
        if self._file is not None:
            empty = os.fstat(self._file).st_size == 0
            os.close(self._file)
            self._file = None
            if empty:
                self.path.unlink(missing_ok=True)

    def _write(self, data: bytes) -> bool:
        if self._file is None:
            return False
        try:
            if os.write(self._file, data) < len(data):
                os.ftruncate(self._file, self._size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self.fault = str(error)
            return False
        self._size += len(data)
        self.fault = ""
        return True

    async def _skip_line(self, file: int) -> None:
        """Pass over a line that is too long for an entry, without holding it in memory."""
        began = self._sent
        while block := os.pread(file, READ_BYTES, self._sent):
            skipped, newline, _ = block.partition(b"\n")
            self._sent += len(skipped) + len(newline)
            if newline:
                self.lines -= 1
                break
            await asyncio.sleep(0)  # a gigabyte takes a second
        log.warning("skipping %d bytes in %s that are no ledger entry", self._sent - began, self.path)


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
