"""What was an artefact made from? A record beside it, so that an artefact made from other inputs is not reused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from models.files import hash_files, sha256, write_json
from training.errors import StageError

_RUN_EARLIER_STAGES = "run the earlier stages first; `laconic-train run` runs all of them"


def is_up_to_date(artefact: Path, made_from: Mapping[str, Any], *, hint_remove: Path | None = None) -> bool:
    """Whether `artefact` exists and was made from these inputs. If it does not exist, the inputs are recorded.

    Args:
        artefact: a file or a directory.
        made_from: everything its content depends on, as JSON.
        hint_remove: the directory that the error message says to remove, if unfinished work lies beside the artefact.
            While it exists, the record holds without the artefact, too. Nothing is removed here.

    Raises:
        StageError: it was made, or its making was begun, from other inputs. Names what differs and what to remove.
    """
    _require_same_inputs(artefact, made_from, hint_remove)
    if artefact.exists():
        return True
    write_json(_record_path(artefact), made_from)
    return False


def require_up_to_date(artefact: Path, made_from: Mapping[str, Any], *, hint_remove: Path | None = None) -> None:
    """Raise unless `artefact` exists and was made from these inputs.

    Raises:
        StageError: it is missing, or was made from other inputs. Names what differs.
    """
    if not artefact.exists():
        raise StageError(f"{artefact} is missing: {_RUN_EARLIER_STAGES}")
    _require_same_inputs(artefact, made_from, hint_remove)


def _require_same_inputs(artefact: Path, made_from: Mapping[str, Any], hint_remove: Path | None) -> None:
    record = _record_path(artefact)
    if record.exists() and (artefact.exists() or (hint_remove and hint_remove.exists())):
        if change := first_difference(json.loads(record.read_text()), made_from):
            raise StageError(
                f"{artefact}: {change.key} changed from {change.before} to {change.after} since it was made;"
                f" remove {hint_remove or artefact} to make it again, or undo the change"
            )
    elif artefact.exists():
        raise StageError(f"{artefact} has no record of what it was made from: remove {hint_remove or artefact}")


def _record_path(artefact: Path) -> Path:
    return artefact.with_name(f"{artefact.name}.made-from.json")


class Difference(NamedTuple):
    """A key in which two records differ, and its two values, shortened."""

    key: str
    before: str
    after: str


def first_difference(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> Difference | None:
    """The first key in which two records differ; None if the records are equal."""
    current = json.loads(json.dumps(current))  # tuples become lists, as in the recorded one
    changed = sorted(key for key in recorded.keys() | current.keys() if recorded.get(key) != current.get(key))
    if not changed:
        return None
    key = changed[0]
    return Difference(key, _shortened(recorded.get(key)), _shortened(current.get(key)))


def fingerprint(path: Path) -> str:
    """A short hash of a file, or of a directory's files and their names; it does not depend on where they are.

    Raises:
        StageError: there is nothing at `path`.
    """
    if not path.exists():
        raise StageError(f"{path} is missing: {_RUN_EARLIER_STAGES}")
    return fingerprint_of(sha256(path) if path.is_file() else json.dumps(hash_files(path, ".")))


def fingerprint_of(text: str) -> str:
    """A short hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _shortened(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else text[:57] + "..."
