"""What does a family look like? The pictures of the training report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

from models.family import Checkpoint, Estimate
from training.tasks.problems import DIFFICULTIES

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_STYLE = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "figure.dpi": 110}


def frontier(checkpoints: Sequence[Checkpoint], path: Path) -> None:
    """Accuracy against reasoning tokens, overall and by difficulty, with 95 % intervals."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(1, 4, figsize=(16, 4), layout="constrained")
        for axis, part in zip(axes, ("overall", *DIFFICULTIES), strict=True):
            for colour, checkpoint in zip(_colours(checkpoints), checkpoints, strict=True):
                measured = checkpoint.frontier.overall if part == "overall" else checkpoint.frontier.by_difficulty[part]
                x, y = measured.reasoning_tokens, measured.accuracy
                axis.errorbar(
                    x.mean,
                    y.mean,
                    xerr=_bars(x),
                    yerr=_bars(y),
                    fmt="o",
                    color=colour,
                    capsize=3,
                    label=checkpoint.name,
                )
            axis.set(title=part, xlabel="reasoning tokens", xlim=(0, None))
        axes[0].set_ylabel("accuracy (pass@1)")
        axes[0].legend(frameon=False)
        _save(figure, path)


def by_difficulty(checkpoints: Sequence[Checkpoint], path: Path) -> None:
    """Reasoning tokens of every checkpoint on every difficulty, with 95 % intervals."""
    with plt.rc_context(_STYLE):
        figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
        width = 0.8 / len(checkpoints)
        for i, (colour, checkpoint) in enumerate(zip(_colours(checkpoints), checkpoints, strict=True)):
            tokens = [checkpoint.frontier.by_difficulty[d].reasoning_tokens for d in DIFFICULTIES]
            place = np.arange(len(DIFFICULTIES)) + (i - (len(checkpoints) - 1) / 2) * width
            bars = np.concatenate([_bars(t) for t in tokens], axis=1)
            axis.bar(place, [t.mean for t in tokens], width, yerr=bars, color=colour, label=checkpoint.name, capsize=2)
        axis.set_xticks(range(len(DIFFICULTIES)), DIFFICULTIES)
        axis.set_ylabel("reasoning tokens")
        axis.legend(frameon=False)
        _save(figure, path)


def training(metrics: Mapping[str, Path], path: Path) -> None:
    """Accuracy, reasoning tokens and episodes of the rollouts, step by step."""
    shown = {
        "rollout/accuracy": "accuracy",
        "rollout/reasoning_tokens": "reasoning tokens",
        "rollout/episodes": "episodes",
    }
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(1, len(shown), figsize=(14, 4), layout="constrained")
        for name, file in metrics.items():
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            for axis, (key, label) in zip(axes, shown.items(), strict=True):
                points = [(line["step"], line[key]) for line in lines if key in line]
                axis.plot(*zip(*points, strict=True), label=name)
                axis.set(xlabel="step", ylabel=label)
        axes[0].legend(frameon=False)
        _save(figure, path)


def _colours(checkpoints: Sequence[Checkpoint]) -> list[tuple[float, ...]]:
    return [tuple(c) for c in plt.get_cmap("viridis")(np.linspace(0, 0.9, len(checkpoints)))]


def _bars(estimate: Estimate) -> np.ndarray:
    return np.array([[estimate.mean - estimate.low], [estimate.high - estimate.mean]])


def _save(figure: plt.Figure, path: Path) -> None:
    # No software version, so that the same figures give the same bytes.
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)
