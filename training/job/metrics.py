"""What happened at each step? One JSON line per logged step, and a progress bar with the main figures."""

from __future__ import annotations

import json
import time
from pathlib import Path

from transformers import ProgressCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from models.files import write_text

_SHOWN = {
    "loss": "loss",
    "rollout/accuracy": "accuracy",
    "rollout/reasoning_tokens": "reasoning tokens",
    "rollout/episodes": "episodes",
}


class JsonLines(TrainerCallback):
    """Appends a trainer's logs to `path`. A resumed run first drops the lines of steps that it will repeat.

    It also drops them from `notes`, a second file of JSON lines that the trainer appends to. A kill may have truncated
    the last line of either.

    `seconds` is the time since the previous line, so the sum over a file is the time spent on the steps that remain.
    """

    def __init__(self, path: Path, notes: Path | None = None) -> None:
        self._path, self._notes = path, notes
        self._logged = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        for path in (self._path, self._notes) if state.is_world_process_zero else ():
            if path is not None and path.exists():
                lines = [line for line in path.read_text().splitlines() if _step(line) <= state.global_step]
                write_text(path, "".join(f"{line}\n" for line in lines))
        self._logged = time.monotonic()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        if state.is_world_process_zero and logs:
            now = time.monotonic()
            row = {"step": state.global_step, "seconds": round(now - self._logged, 2), **logs}
            self._logged = now
            with self._path.open("a") as stream:
                stream.write(json.dumps(row) + "\n")


class Bar(ProgressCallback):
    """transformers' progress bar with the latest figures beside it, instead of a line per log."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        if self.training_bar is not None:
            figures = {shown: f"{float(logs[key]):.3g}" for key, shown in _SHOWN.items() if logs and key in logs}
            self.training_bar.set_postfix(figures)


def show_in_bar(trainer: Trainer) -> None:
    """Replace the trainer's progress bar, which prints every log, with ours."""
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Bar)


def minutes(path: Path) -> float:
    """How many minutes a training took, from its log."""
    return sum(json.loads(line)["seconds"] for line in path.read_text().splitlines()) / 60


def curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every rollout figure in a training's log, by the figure's name without `rollout/`."""
    series: dict[str, list[tuple[int, float]]] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        for key in row:
            if key.startswith("rollout/"):
                series.setdefault(key.removeprefix("rollout/"), []).append((row["step"], row[key]))
    return series


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # a line that a kill truncated
        return float("inf")
