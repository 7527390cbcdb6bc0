"""How do the ledger's entries become a file for other tools? JSONL, or Parquet where pyarrow is installed."""

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
ROWS = 10_000
"""Of a Parquet row group: what is in memory at a time."""


def writer(file: Path) -> Writer:
    """What writes entries to a file of this name, whole or not at all, and returns how many they were.

    Raises:
        ConfigError: a name that says no known form, a directory that is not there, or Parquet without pyarrow.
    """
    forms: dict[str, Callable[[Path, AsyncIterator[Entry]], Awaitable[int]]] = {".jsonl": _jsonl, ".parquet": _parquet}
    form = forms.get(file.suffix)
    if form is None:
        raise ConfigError(f"file: {file} ends neither in .jsonl nor in .parquet")
    if not file.parent.is_dir():
        raise ConfigError(f"file: there is no directory {file.parent}")
    if file.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError("file: Parquet needs pyarrow: pip install 'laconic[parquet]'")

    async def write(source: AsyncIterator[Entry]) -> int:
        partial = file.with_name(f"{file.name}.part")
        try:
            count = await form(partial, source)
            partial.replace(file)
        except OSError as error:
            raise ConfigError(f"file: {file} cannot be written ({error.strerror})") from None
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
    columns = [(name, types.get(_plain(kind), pa.string())) for name, kind in get_type_hints(Entry).items()]
    schema = pa.schema(columns)
    count, rows = 0, list[dict[str, Any]]()
    with parquet.ParquetWriter(file, schema) as table:
        async for entry in source:
            rows.append({**asdict(entry), "forecasts": json.dumps(entry.forecasts)})
            count += 1
            if len(rows) == ROWS:
                table.write_table(pa.Table.from_pylist(rows, schema))
                rows.clear()
        table.write_table(pa.Table.from_pylist(rows, schema))
    return count


def _plain(kind: Any) -> Any:
    """The type of what may be None, too."""
    parts: tuple[Any, ...] = get_args(kind)
    return next((part for part in parts if part is not NoneType), kind)
