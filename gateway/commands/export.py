"""How are ledger entries exported for other tools? As JSONL, or as Parquet if pyarrow is installed."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import NoneType
from typing import IO, Any, get_args, get_type_hints

from gateway.config import ConfigError
from gateway.ledger import entry as entries
from gateway.ledger.entry import Entry

Scores = Mapping[str, Mapping[str, float]]
"""By the id of each request that has scores: its scores by source."""
Writer = Callable[[AsyncIterator[Entry], Scores], Awaitable[int]]
_AS_JSON = ("forecasts", "counts", "scores")
"""Columns of a Parquet file that are JSON."""
GROUP_ROWS = 10_000
"""Rows per Parquet row group, which are in memory at a time."""


def writer(file: Path, *, force: bool = False) -> Writer:
    """Return a function that writes entries to the file atomically and returns their number.

    Only the file's owner may read it. With `force`, a file or link that is there is replaced.

    Raises:
        ConfigError: the suffix is unknown, the directory does not exist, there is something at the path, or Parquet is
            requested without pyarrow. The function raises it, too, if it cannot write.
    """
    writers: dict[str, Callable[[IO[bytes], AsyncIterator[Entry], Scores], Awaitable[int]]] = {
        ".jsonl": _jsonl,
        ".parquet": _parquet,
    }
    write_entries = writers.get(file.suffix)
    if write_entries is None:
        raise ConfigError(f"file: {file} must end in .jsonl or .parquet")
    if not file.parent.is_dir():
        raise ConfigError(f"file: there is no directory {file.parent}")
    if file.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError("file: Parquet needs pyarrow: pip install 'laconic-gateway[parquet]'")

    if not force:
        _refuse_existing(file)

    async def write(source: AsyncIterator[Entry], scores: Scores) -> int:
        partial = file.with_name(f"{file.name}.part")
        try:
            with _created(partial, force=force) as output:
                try:
                    count = await write_entries(output, source, scores)
                    output.flush()
                    _publish(partial, file, force=force)
                finally:
                    partial.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(f"file: cannot write {file} ({error.strerror})") from None
        return count

    return write


def _refuse_existing(file: Path) -> None:
    if file.is_dir():
        raise ConfigError(f"file: cannot write {file} (it is a directory)")
    if os.path.lexists(file):
        raise ConfigError(f"file: {file} exists; pass --force to replace it")


def _publish(partial: Path, file: Path, *, force: bool) -> None:
    """Give the finished file its name. Without `force`, one that somebody made meanwhile stays."""
    if not force:
        try:
            os.link(partial, file)  # unlike a rename, it replaces nothing
            return
        except OSError:  # there is a file now, or the file system has no hard links
            _refuse_existing(file)
    partial.replace(file)


def _created(partial: Path, *, force: bool) -> IO[bytes]:
    """The file that is renamed at the end. It is made anew, so that what is written is nobody else's."""
    if force:
        partial.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.fdopen(os.open(partial, flags, 0o600), "wb")
    except FileExistsError:
        raise ConfigError(
            f"file: {partial} exists: another export writes it, or one was killed; remove it, or pass --force"
        ) from None


async def _jsonl(file: IO[bytes], source: AsyncIterator[Entry], scores: Scores) -> int:
    count = 0
    async for entry in source:
        line = entries.dump(entry).removesuffix("}")
        file.write(f'{line},"scores":{json.dumps(scores.get(entry.id, {}))}}}\n'.encode())
        count += 1
    return count


async def _parquet(file: IO[bytes], source: AsyncIterator[Entry], scores: Scores) -> int:
    pa: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")

    types: dict[Any, Any] = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    columns = [(name, types.get(_without_none(kind), pa.string())) for name, kind in get_type_hints(Entry).items()]
    columns.append(("scores", pa.string()))
    schema = pa.schema([(name, pa.string() if name in _AS_JSON else kind) for name, kind in columns])
    count, rows = 0, list[dict[str, Any]]()
    with parquet.ParquetWriter(file, schema) as table:
        async for entry in source:
            row = {**asdict(entry), "forecasts": entry.forecasts, "scores": scores.get(entry.id, {})}
            rows.append(row | {name: json.dumps(row[name]) for name in _AS_JSON})
            count += 1
            if len(rows) == GROUP_ROWS:
                table.write_table(pa.Table.from_pylist(rows, schema))
                rows.clear()
        table.write_table(pa.Table.from_pylist(rows, schema))
    return count


def _without_none(kind: Any) -> Any:
    """The type itself, for an optional type."""
    parts: tuple[Any, ...] = get_args(kind)
    return next((part for part in parts if part is not NoneType), kind)
