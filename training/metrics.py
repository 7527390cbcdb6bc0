"""What happened at which step? One JSON line per logged step, beside TensorBoard's files."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class JsonLines(TrainerCallback):
    """Appends a trainer's logs to `path`; a resumed run first drops the lines it is about to write again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        if state.is_world_process_zero and self._path.exists():
            lines = self._path.read_text().splitlines()
            kept = [line for line in lines if _step(line) <= state.global_step]
            self._path.write_text("".join(f"{line}\n" for line in kept))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        if state.is_world_process_zero and logs:
            with self._path.open("a") as stream:
                stream.write(json.dumps({"step": state.global_step, **logs}) + "\n")


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # a line that a kill cut short
        return float("inf")
