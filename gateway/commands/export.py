"""How are ledger entries exported for other tools? As JSONL, or as Parquet if pyarrow is installed."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from gateway.config import ConfigError
from gateway.ledger import entry as entries
from gateway.ledger.entry import Entry

Writer = Callable[[AsyncIterator[Entry]], Awaitable[int]]
GROUP_ROWS = 10_000
"""Rows per Parquet row group, which are in memory at a time."""


def writer(file: Path) -> Writer:
    """Return a function that writes entries to the file atomically and returns their number.

    Raises:
        ConfigError: the suffix is unknown, the directory does not exist, or Parquet is requested without pyarrow.
    """
    writers: dict[str, Callable[[Path, AsyncIterator[Entry]], Awaitable[int]]] = {
        ".jsonl": _jsonl,
        ".parquet": _parquet,
    }
    write_entries = writers.get(file.suffix)
    if write_entries is None:
        raise ConfigError(f"file: {file} must end in .jsonl or .parquet")
    if not file.parent.is_dir():
        raise ConfigError(f"file: there is no directory {file.parent}")
    if file.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError("file: Parquet needs pyarrow: pip install 'laconic[parquet]'")

    async def write(source: AsyncIterator[Entry]) -> int:
        partial = file.with_name(f"{file.name}.part")
        try:
            count = await write_entries(partial, source)
            partial.replace(file)
        except OSError as error:
            raise ConfigError(f"file: cannot write {file} ({error.strerror})") from None
        finally:
            partial.unlink(missing_ok=True)
        return count

    return write


async def _jsonl(file: Path, source: AsyncIterator[Entry]) -> int:
    count = 0
    with file.open("w", encoding="utf-8") as lines:
        async for entry in source:
            lines.write(f"{entries.dump(entry)}\n")
            count += 1
    return count


async def _parquet(file: Path, source: AsyncIterator[Entry]) -> int:
    pa: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")

    types: dict[Any, Any] = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    columns = [(name, types.get(_without_none(kind), pa.string())) for name, kind in get_type_hints(Entry).items()]
    schema = pa.schema(columns)
    count, rows = 0, list[dict[str, Any]]()
    with parquet.ParquetWriter(file, schema) as table:
        async for entry in source:
            rows.append({**asdict(entry), "forecasts": json.dumps(entry.forecasts)})
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
