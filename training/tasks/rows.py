"""Which rows does a file of questions have? Reads JSON lines, a JSON list, CSV and Parquet, as people publish them.

Text may be UTF-8, UTF-16 or UTF-32, with or without a byte order mark, with any line ends. Columns are found whatever
their case: `Problem` is `problem`.
"""

from __future__ import annotations

import csv
import importlib
import importlib.util
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from training.errors import StageError

_HALF_A_PAIR = re.compile("[\ud800-\udfff]")


class Unusable(Exception):
    """A row that cannot be a question: its text says where, which field and why."""

    def __init__(self, kind: str, message: str) -> None:
        """`kind` completes `2 rows with ...`."""
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Row:
    """A row of a file, and how messages refer to it."""

    where: str
    """The file and the line or row."""
    number: int
    """Of the line in JSON lines and CSV, else of the row; from 1."""
    fields: Mapping[str, Any]

    @cached_property
    def _by_name(self) -> dict[str, tuple[str, Any]]:
        return {name.strip().lower(): (name, value) for name, value in self.fields.items()}

    def has(self, *names: str) -> bool:
        """Whether one of these columns is there, whatever its value."""
        return any(name in self._by_name for name in names)

    def text(self, *names: str, kind: str) -> str:
        """The first of these columns that has a value, as text; numbers without a fraction have no decimal point.

        Raises:
            Unusable: none has a value, or the value is neither text nor a number. It is of this `kind`.
        """
        present = [self._by_name[name] for name in names if name in self._by_name]
        filled = [(name, value) for name, value in present if value is not None]
        if not filled:
            missing = f"{present[0][0]} is null" if present else f"{names[0]} is missing"
            raise Unusable(kind, f"{self.where}: {missing}; it must be text or a number")
        name, value = filled[0]
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not isinstance(value, str) and not is_number:
            shown = json.dumps(value, default=str)[:60]
            raise Unusable(kind, f"{self.where}: {name} must be text or a number, got {shown}")
        text = str(value)
        if _HALF_A_PAIR.search(text):
            raise Unusable(kind, f"{self.where}: {name} has half of a surrogate pair, which is no text")
        return text


def read(path: Path) -> list[Row]:
    """All rows of a file; its suffix says how it is read.

    Raises:
        StageError: it cannot be read or is malformed. Names the file and the line or row.
    """
    rows: list[Row] = []
    readers = {".json": _json, ".csv": _csv, ".parquet": _parquet}
    for unit, number, fields in readers.get(path.suffix.lower(), _lines)(path):
        where = f"{path}, {unit} {number}"
        if not isinstance(fields, dict):
            raise StageError(f"{where}: must be an object with fields, got {json.dumps(fields)[:60]}")
        rows.append(Row(where, number, fields))
    return rows


def require_column(rows: Sequence[Row], names: Sequence[str]) -> None:
    """Raise unless a row has one of these columns.

    Raises:
        StageError: none has. Names the columns that were found.
    """
    if not rows or any(row.has(*names) for row in rows):
        return
    found = list(dict.fromkeys(name for row in rows for name in row.fields))
    raise StageError(
        f"{rows[0].where}: {names[0]} is missing, in every row: a column must be called {_either(names)}, in any case;"
        f" the columns found are {', '.join(map(repr, found[:20])) or 'none'}"
    )


def _either(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, UTF-16 or UTF-32, without a byte order mark.

    Raises:
        StageError: it cannot be read, or is in none of these encodings.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StageError(f"{path}: cannot be read ({error.strerror})") from None
    encoding = json.detect_encoding(data)  # by the byte order mark, or by where the zero bytes are
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise StageError(
            f"{path}, line {line}: not UTF-8 or UTF-16 text ({error.reason}): save the file as UTF-8"
        ) from None


def lines_of(text: str) -> list[str]:
    """The lines of a text, with any line ends. `splitlines` would split strings that contain U+2028 and the like."""
    return re.split(r"\r\n|\n|\r", text)


def _lines(path: Path) -> Iterator[tuple[str, int, Any]]:
    for number, line in enumerate(lines_of(read_text(path)), 1):
        if line.strip():
            yield "line", number, _parsed(f"{path}, line {number}", line)


def _json(path: Path) -> Iterator[tuple[str, int, Any]]:
    text = read_text(path)
    if not text.lstrip().startswith("["):
        try:
            json.loads(text.lstrip().split("\n", 1)[0])
        except (ValueError, RecursionError):
            raise StageError(f"{path}: not JSON, or neither a list of rows nor one object on each line") from None
        yield from _lines(path)
        return
    for number, value in enumerate(_parsed(str(path), text), 1):
        yield "row", number, value


def _parsed(where: str, text: str) -> Any:
    try:
        return json.loads(text)  # NaN, which pandas writes where a value is missing, is reported with its field
    except (ValueError, RecursionError) as error:
        raise StageError(f"{where}: not JSON ({error})") from None


def _csv(path: Path) -> Iterator[tuple[str, int, Any]]:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    try:
        for fields in reader:
            if None in fields or None in fields.values():
                raise StageError(f"{path}, line {reader.line_num}: has another number of columns than the first line")
            yield "line", reader.line_num, fields
    except csv.Error as error:
        raise StageError(f"{path}, line {reader.line_num}: not CSV ({error})") from None


def parquet_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet file.

    Raises:
        StageError: it cannot be read, or pyarrow is not installed.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise StageError(f"{path}: Parquet needs pyarrow: pip install 'laconic-gateway[parquet]'")
    try:
        batches = importlib.import_module("pyarrow.parquet").ParquetFile(path).iter_batches()
        return [row for batch in batches for row in batch.to_pylist()]
    except (OSError, ValueError) as error:  # pyarrow's own errors are of these kinds
        raise StageError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]})") from None


def _parquet(path: Path) -> Iterator[tuple[str, int, Any]]:
    for number, fields in enumerate(parquet_rows(path), 1):
        yield "row", number, fields
