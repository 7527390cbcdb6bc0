"""What was an artefact made from? A record beside it, so that one made from something else is not taken for it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.family import hash_files, sha256
from training.errors import StageError


def is_up_to_date(artefact: Path, made_from: Mapping[str, Any], *, remove: Path | None = None) -> bool:
    """Whether `artefact` has been made, from this; where it has not, notes that it is going to be.

    Args:
        artefact: a file or a directory.
        made_from: everything that what is in it depends on, as JSON.
        remove: what holds the artefact and the work towards it, where there can be unfinished work.

    Raises:
        StageError: it was made, or work on it was begun, from something else; names what differs and what to remove.
    """
    _require_same(artefact, made_from, remove)
    if artefact.exists():
        return True
    write_json(_record(artefact), json.loads(json.dumps(made_from)))
    return False


def require(artefact: Path, made_from: Mapping[str, Any], *, remove: Path | None = None) -> None:
    """See that `artefact` has been made, from this.

    Raises:
        StageError: it has not, or from something else; names what differs.
    """
    if not artefact.exists():
        raise StageError(f"{artefact} is missing; run the earlier stages first: laconic-train run goes through all")
    _require_same(artefact, made_from, remove)


def _require_same(artefact: Path, made_from: Mapping[str, Any], remove: Path | None) -> None:
    record = _record(artefact)
    if record.exists() and (artefact.exists() or remove):
        if changed := differing(json.loads(record.read_text()), made_from):
            raise StageError(
                f"{artefact} was made with {changed}: remove {remove or artefact} to make it anew, or change it back"
            )
    elif artefact.exists():
        raise StageError(f"{artefact} has no record of what it was made from: remove {remove or artefact}")


def _record(artefact: Path) -> Path:
    return artefact.with_name(f"{artefact.name}.made-from.json")


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """What has changed between two records, in words; None where nothing has."""
    now = json.loads(json.dumps(now))
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if not changed:
        return None
    key = changed[0]
    return f"another {key} ({_brief(before.get(key))}, now {_brief(now.get(key))})"


def fingerprint(path: Path) -> str:
    """A hash over a file, or over all files of a directory and their names in it; wherever it lies.

    Raises:
        StageError: there is nothing at `path`.
    """
    if not path.exists():
        raise StageError(f"{path} is missing; run the earlier stages first: laconic-train run goes through all")
    found = sha256(path) if path.is_file() else json.dumps(hash_files(path, "."))
    return hashlib.sha256(found.encode()).hexdigest()[:16]


def write_json(path: Path, value: object) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def _brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else text[:57] + "..."
