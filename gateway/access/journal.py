"""Which settlements still wait for Redis, if this process is killed? One line each in the state directory.

Nothing is written while Redis answers: a settlement that is lost within those milliseconds is charged in full with its
lease. During an outage every settlement is written here, and the next process sends what it finds. Sending one again
changes nothing, because Redis remembers what was settled.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json

from gateway.access.windows import STATE_SECONDS
from models.files import MIB, open_regular, read_bounded

log = logging.getLogger(__name__)

NAME = "limits.{}.jsonl"
"""The file of each worker."""
MAX_BYTES = 64 * MIB


class _Settlement(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    time: float
    """Unix seconds. After `STATE_SECONDS` Redis does not know the lease any more."""
    key: str = Field(min_length=1, max_length=256)
    lease: str = Field(pattern=r"^[^:]{1,200}(:[0-9]{1,18}){1,2}$")
    tokens: int = Field(ge=0, lt=2**53)
    spent: int = Field(ge=0, lt=2**53)
    money: int | None = Field(default=None, ge=0, lt=2**53)
    """None without a limit in money; so are the others."""
    cost: int | None = Field(default=None, ge=0, lt=2**53)
    team: str | None = Field(default=None, max_length=256)


class Journal:
    """One process' file."""

    def __init__(self, state_dir: Path, worker: int = 0) -> None:
        self._path = state_dir / NAME.format(worker)
        self._file: int | None = None
        self._leases: set[str] = set()
        """Whose settlements are in the file."""
        self._failed = False

    def write(self, settlements: Sequence[dict[str, Any]]) -> None:
        """Add settlements. If they cannot be written, they are in memory only, and the log says so once."""
        new = [settlement for settlement in settlements if settlement["lease"] not in self._leases]
        if not new:
            return
        now = round(time.time(), 3)
        names = _Settlement.model_fields.keys()
        whole = [{"time": now, **{name: value for name, value in one.items() if name in names}} for one in new]
        lines = b"".join(to_json(one) + b"\n" for one in whole)
        try:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
                self._file = open_regular(self._path, flags)
            if os.write(self._file, lines) < len(lines):
                os.write(self._file, b"\n")  # what is torn must not take the next line with it
                raise OSError("the disk is full")
            self._failed = False
            self._leases.update(one["lease"] for one in new)
        except OSError as error:
            if not self._failed:
                log.error("settlements of limits are in memory only: %s cannot be written (%s)", self._path, error)
            self._failed = True

    def read(self) -> list[dict[str, Any]]:
        """The settlements that the process before this one left, unless they are too old."""
        try:
            content = read_bounded(self._path, MAX_BYTES, os.O_NOFOLLOW)
        except FileNotFoundError:
            return []
        except OSError as error:
            log.error("settlements of limits are lost: %s cannot be read (%s)", self._path, error)
            return []
        settlements: list[dict[str, Any]] = []
        for line in filter(None, content.split(b"\n")):
            try:
                found = _Settlement.model_validate_json(line)
            except ValidationError:  # torn by a kill or a full disk
                continue
            if found.time > time.time() - STATE_SECONDS:
                settlements.append({"kind": "settle", **found.model_dump(exclude={"time"}, exclude_none=True)})
                self._leases.add(found.lease)
        return settlements

    @property
    def in_use(self) -> bool:
        """Whether settlements are in the file."""
        return bool(self._leases)

    def clear(self) -> None:
        """Empty the file, because Redis has all settlements."""
        self._leases.clear()
        with contextlib.suppress(OSError):  # then the next process sends them again, which changes nothing
            os.truncate(self._path, 0)

    def close(self, *, delivered: bool) -> None:
        """Close the file, and remove it if Redis has all settlements."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if delivered:
            self._path.unlink(missing_ok=True)


def merge_journals(state_dir: Path) -> None:
    """Move what other workers left to the first worker's file: there may be fewer workers now. None may be running."""
    for other in state_dir.glob(NAME.format("[1-9]*")):
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            content = read_bounded(other, MAX_BYTES, os.O_NOFOLLOW)
            with os.fdopen(open_regular(state_dir / NAME.format(0), flags), "ab") as first:
                first.write(b"\n" + content)
            other.unlink()
        except OSError as error:
            log.error("settlements of limits in %s are not sent: %s", other, error)
