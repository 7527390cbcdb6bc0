"""Where does a killed stage go on? Complete checkpoints only, newest first; half-written ones are removed."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_COMPLETE = "complete"


class MarkComplete(TrainerCallback):
    """Marks a checkpoint once all its files are written; a kill before that leaves it unmarked."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        processes().wait_for_everyone()  # each writes a part
        if state.is_world_process_zero:
            (Path(args.output_dir or ".") / f"checkpoint-{state.global_step}" / _COMPLETE).touch()


def last_checkpoint(directory: Path) -> str | None:
    """The newest complete checkpoint of a stage, None where it has not come to one."""
    with processes().main_process_first():
        checkpoints = sorted(directory.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
        for half_written in [path for path in checkpoints if not (path / _COMPLETE).exists()]:
            shutil.rmtree(half_written)
            checkpoints.remove(half_written)
    return str(checkpoints[-1]) if checkpoints else None


def processes() -> PartialState:
    """The processes that train together; one, unless the command was launched with more."""
    return PartialState(cpu=not torch.cuda.is_available())
