"""Where does a killed stage resume? At its newest complete checkpoint; half-written ones are removed."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import PartialState
from rich.console import Console
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from models.files import write_json
from training.errors import StageError

_console = Console(stderr=True, soft_wrap=True)
_COMPLETE = "complete"
_NUMBERS = "laconic_numbers.json"


class MarkComplete(TrainerCallback):
    """Marks a checkpoint as complete once all its files are written."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        processes().wait_for_everyone()  # each process writes a part
        if state.is_world_process_zero:
            directory = Path(args.output_dir or ".") / f"checkpoint-{state.global_step}"
            write_json(directory / _COMPLETE, _sizes(directory))


class KeepNumbers(TrainerCallback):
    """Writes numbers that a trainer needs in its next step into each checkpoint. It must come before `MarkComplete`.

    They must be the same in all processes, because only the main one writes them. As JSON, a float is exact.
    """

    def __init__(self, numbers: Callable[[], dict[str, float]]) -> None:
        self._numbers = numbers

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        if state.is_world_process_zero:
            write_json(Path(args.output_dir or ".") / f"checkpoint-{state.global_step}" / _NUMBERS, self._numbers())


def kept_numbers(checkpoint: str) -> dict[str, float]:
    """What `KeepNumbers` wrote into a complete checkpoint.

    Raises:
        StageError: the file is missing or not JSON.
    """
    path = Path(checkpoint) / _NUMBERS
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise StageError(f"{path}: cannot be read ({error}); remove {checkpoint} to resume before it") from None


def last_checkpoint(directory: Path) -> str | None:
    """The newest complete checkpoint in `directory`; None if there is none."""
    with processes().main_process_first():
        checkpoints = sorted(directory.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
        for half_written in [path for path in checkpoints if not _is_complete(path)]:
            shutil.rmtree(half_written)
            checkpoints.remove(half_written)
    return str(checkpoints[-1]) if checkpoints else None


def _is_complete(checkpoint: Path) -> bool:
    """Whether all files were written and still have their sizes; a power loss can truncate them."""
    try:
        return json.loads((checkpoint / _COMPLETE).read_text()) == _sizes(checkpoint)
    except (OSError, ValueError):
        return False


def _sizes(checkpoint: Path) -> dict[str, int]:
    files = (path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != _COMPLETE)
    return {str(path.relative_to(checkpoint)): path.stat().st_size for path in files}


@contextmanager
def exclusive_lock(directory: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds a lock on `directory`, so that no other command works there. Processes launched together share it.

    Args:
        directory: made if it does not exist.
        wait: for another command that holds the lock, because what it makes there is used here, too.

    Raises:
        StageError: another command holds the lock, and `wait` is false.
    """
    if not processes().is_main_process:
        yield
        return
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise StageError(
                    f"{directory}: another laconic-train is running there; wait for it or end it"
                ) from None
            _console.print(f"{directory}: another laconic-train is working there; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def processes() -> PartialState:
    """The processes that train together; one unless started by `accelerate launch`."""
    return PartialState(cpu=not torch.cuda.is_available())
