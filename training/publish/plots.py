"""What do a family and an experiment look like? The plots of the model card and of the experiments' report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from models.family import Checkpoint, Estimate

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Figures = Mapping[str, Estimate | None]

_STYLE = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "figure.dpi": 110}


def frontier(checkpoints: Sequence[Checkpoint], path: Path) -> None:
    """Accuracy against reasoning tokens, overall and by difficulty, with 95 % intervals."""
    parts = ("overall", *checkpoints[0].frontier.by_difficulty)
    with plt.rc_context(_STYLE):
        size = (4 * len(parts), 4) if len(parts) > 1 else (6, 4.5)
        figure, axes = plt.subplots(1, len(parts), figsize=size, layout="constrained", squeeze=False)
        for axis, part in zip(axes[0], parts, strict=True):
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
        axes[0][0].set_ylabel("accuracy (pass@1)")
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=8, frameon=False)
        _save(figure, path)


def arms(compared: Mapping[str, tuple[str, Figures]], parts: Sequence[str], path: Path) -> None:
    """Accuracy against reasoning tokens of every reward and alpha, sampled (o) and greedy (x), intervals over seeds.

    Each reward has its colour; sampled points are labelled with their alpha.
    """
    colours = _reward_colours(compared)
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(1, len(parts), figsize=(4.4 * len(parts), 4.6), layout="constrained")
        for axis, part in zip(axes, parts, strict=True):
            for name, (reward, figures) in compared.items():
                for prefix, marker in (("", "o"), ("greedy ", "x")):
                    x, y = figures[f"{prefix}tokens, {part}"], figures[f"{prefix}accuracy, {part}"]
                    if x and y:
                        axis.errorbar(
                            x.mean,
                            y.mean,
                            xerr=_bars(x),
                            yerr=_bars(y),
                            fmt=marker,
                            color=colours[reward],
                            alpha=0.85,
                            capsize=2,
                            label=None if prefix else reward,
                        )
                        if not prefix:
                            level = name.removeprefix(reward)
                            axis.annotate(
                                level, (x.mean, y.mean), xytext=(3, 3), textcoords="offset points", fontsize=8
                            )
            axis.set(title=part, xlabel="reasoning tokens", xlim=(0, None))
        axes[0].set_ylabel("accuracy (o at temperature 1, x greedy)")
        handles, labels = axes[0].get_legend_handles_labels()
        once = dict(zip(labels, handles, strict=True))
        figure.legend(once.values(), once.keys(), loc="outside lower center", ncols=6, frameon=False)
        _save(figure, path)


def checks(compared: Mapping[str, tuple[str, Figures]], parts: Sequence[str], path: Path) -> None:
    """How often a rollout continues after a first episode that was right, or wrong, on its own."""
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(1, len(parts), figsize=(4.6 * len(parts), 4.2), layout="constrained", sharey=True)
        place = np.arange(len(compared))
        for axis, part in zip(axes, parts, strict=True):
            for shift, first, colour in ((-0.2, "right", "tab:gray"), (0.2, "wrong", "tab:red")):
                values = [figures[f"second episodes after a {first} first, {part}"] for _, figures in compared.values()]
                measured = [i for i, value in enumerate(values) if value]
                estimates = [value for value in values if value]
                axis.bar(
                    place[measured] + shift,
                    [estimate.mean for estimate in estimates],
                    0.4,
                    yerr=np.concatenate([_bars(estimate) for estimate in estimates], axis=1) if estimates else None,
                    color=colour,
                    capsize=2,
                    label=f"after a {first} first episode",
                )
            axis.set_xticks(place, list(compared), rotation=60, ha="right")
            axis.set(title=part, ylim=(0, 1.05))
        axes[0].set_ylabel("share that goes on")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
        _save(figure, path)


def gain_by_episode(compared: Mapping[str, Sequence[tuple[int, float, float]]], path: Path, most: int = 6) -> None:
    """Mean information gain of the first `most` episodes over a training, from (episode, gain, compression)."""
    with plt.rc_context(_STYLE):
        figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
        for name, rows in compared.items():
            by_episode = {k: [gain for episode, gain, _ in rows if episode == k] for k in range(1, most + 1)}
            reached = [k for k, gains in by_episode.items() if gains]
            axis.plot(reached, [np.mean(by_episode[k]) for k in reached], marker="o", label=name)
        axis.set(xlabel="episode", ylabel="information gain, mean over the training")
        axis.axhline(0, color="black", linewidth=0.6)
        axis.legend(frameon=False, loc="best")  # by name, or matplotlib warns where a busy machine takes a second
        _save(figure, path)


def gain_against_compression(compared: Mapping[str, Sequence[tuple[int, float, float]]], path: Path) -> None:
    """One point per episode: its information gain against its charge.

    The charge is information, in units of an average rollout's, or tokens at their price.
    """
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(
            1, len(compared), figsize=(4.6 * len(compared), 4.2), layout="constrained", squeeze=False
        )
        for axis, (name, rows) in zip(axes[0], compared.items(), strict=True):
            some = rows[:: max(1, len(rows) // 4000)]
            first = np.array([k == 1 for k, *_ in some])
            gain, cost = (np.array([row[i] for row in some]) for i in (1, 2))
            for chosen, colour, label in ((first, "tab:gray", "first episode"), (~first, "tab:red", "later")):
                axis.scatter(gain[chosen], cost[chosen] + 1e-4, s=4, alpha=0.4, color=colour, label=label)
            axis.set(title=name, xlabel="information gain", ylabel="charge", yscale="log")
        axes[0][0].legend(frameon=False, loc="best")
        _save(figure, path)


def by_difficulty(checkpoints: Sequence[Checkpoint], path: Path) -> None:
    """Reasoning tokens of every checkpoint on every difficulty, with 95 % intervals."""
    difficulties = list(checkpoints[0].frontier.by_difficulty)
    with plt.rc_context(_STYLE):
        figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
        width = 0.8 / len(checkpoints)
        for i, (colour, checkpoint) in enumerate(zip(_colours(checkpoints), checkpoints, strict=True)):
            tokens = [checkpoint.frontier.by_difficulty[d].reasoning_tokens for d in difficulties]
            place = np.arange(len(difficulties)) + (i - (len(checkpoints) - 1) / 2) * width
            bars = np.concatenate([_bars(t) for t in tokens], axis=1)
            axis.bar(place, [t.mean for t in tokens], width, yerr=bars, color=colour, label=checkpoint.name, capsize=2)
        axis.set_xticks(range(len(difficulties)), difficulties)
        axis.set_ylabel("reasoning tokens")
        axis.legend(frameon=False, loc="best")
        _save(figure, path)


def training(curves: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], path: Path) -> None:
    """Accuracy, reasoning tokens and episodes of the rollouts, step by step; (step, value) by checkpoint and figure."""
    shown = {"accuracy": "accuracy", "reasoning_tokens": "reasoning tokens", "episodes": "episodes"}
    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(1, len(shown), figsize=(14, 4), layout="constrained")
        for name, by_figure in curves.items():
            for axis, (key, label) in zip(axes, shown.items(), strict=True):
                axis.plot(*zip(*by_figure[key], strict=True), label=name)
                axis.set(xlabel="step", ylabel=label)
        axes[0].legend(frameon=False, loc="best")
        temperatures = [value for by_figure in curves.values() for _, value in by_figure.get("temperature", ())]
        if temperatures:
            figure.suptitle(f"rollouts, temperature {max(temperatures):.1f} to {min(temperatures):.1f}")
        _save(figure, path)


def _colours(checkpoints: Sequence[Checkpoint]) -> list[tuple[float, ...]]:
    return [tuple(c) for c in plt.get_cmap("viridis")(np.linspace(0, 0.9, len(checkpoints)))]


def _reward_colours(compared: Mapping[str, tuple[str, Figures]]) -> dict[str, Any]:
    rewards = list(dict.fromkeys(reward for reward, _ in compared.values()))
    return {reward: plt.get_cmap("tab10")(i) for i, reward in enumerate(rewards)}


def _bars(estimate: Estimate) -> np.ndarray:
    return np.array([[estimate.mean - estimate.low], [estimate.high - estimate.mean]])


def _save(figure: plt.Figure, path: Path) -> None:
    # Without the software version, the same figures give the same bytes.
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)
