"""What do the measurements look like? Every plot of the docs that is drawn from committed JSON alone.

Each takes what a benchmark wrote and the path of the picture. The same JSON gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.frontiers import Point, hull

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import NullFormatter

Json = Mapping[str, Any]
AUTO = "auto"


def gateway(results: Json, path: Path) -> None:
    """Requests a second by clients, streaming and not, of every gateway."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    rates = results["requests/s"]
    for axis, kind in zip(axes, ("streamed", "non-streaming"), strict=True):
        clients = [int(case.rpartition(" ")[2]) for case in rates if case.startswith(f"{kind} ")]
        for name in rates[f"{kind} {clients[0]}"]:
            axis.plot(clients, [rates[f"{kind} {number}"][name] for number in clients], marker="o", label=name)
        axis.set(xscale="log", yscale="log", xlabel="clients", title=f"{kind} responses")
        axis.set_xticks(clients, [str(number) for number in clients])
        axis.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("requests a second")
    axes[0].legend(frameon=False, loc="best")
    _save(figure, path, dpi=150)


def growth(results: Json, path: Path) -> None:
    """CPU time by size of each dimension, beside what grows in proportion."""
    dimensions = results["dimensions"]
    rows = -(-len(dimensions) // 4)
    figure, axes = plt.subplots(rows, 4, figsize=(12, 2.6 * rows), layout="constrained")
    for axis in axes.flat[len(dimensions) :]:
        axis.set_axis_off()
    for axis, (name, one) in zip(axes.flat, dimensions.items(), strict=False):
        points = [(size, cost) for size, cost in zip(one["sizes"], one["microseconds"], strict=True) if size > 0]
        sizes, costs = _columns(points)
        axis.plot(sizes, costs, marker="o")
        axis.plot(sizes, [costs[-1] * size / sizes[-1] for size in sizes], color="grey", linestyle=":")
        axis.set(xscale="log", yscale="log", title=f"{name}: {one['slope']:.2f}", ylim=(min(costs) / 3, max(costs) * 3))
        axis.title.set_fontsize("medium")
        if sizes[-1] < 1000:
            axis.set_xticks(sizes, [str(size) for size in sizes])
        for side in (axis.xaxis, axis.yaxis):
            side.set_minor_formatter(NullFormatter())
    for axis in axes[:, 0]:
        axis.set_ylabel("microseconds")
    _save(figure, path)


def dense_reward(results: Json, path: Path) -> None:
    """How many times as fast packed probes are, by episodes and thinking tokens."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    lengths = dict.fromkeys(row["thinking_tokens"] for row in results["probing"])
    for axis, name in zip(axes, ("packed", "after sampling"), strict=True):
        for length in lengths:
            rows = [row for row in results["probing"] if row["thinking_tokens"] == length]
            ratios = [row[name]["ratio"] for row in rows]
            axis.plot([row["episodes"] for row in rows], ratios, marker="o", label=f"{length} tokens")
        axis.set(xlabel="episodes K", title=f"probes, {name}", ylim=(0, None))
    axes[0].set_ylabel("times as fast as a pass per episode")
    axes[0].legend(title="thinking", frameon=False, loc="best")
    _save(figure, path, dpi=120)


def routing_budgets(results: Json, path: Path) -> None:
    """Accuracy by budget, of every checkpoint and of `auto`."""
    budgets = results["budgets"]
    figure, axis = plt.subplots(figsize=(7, 4.6), layout="constrained")
    for name in next(iter(budgets.values()))["accuracy"]:
        estimates = [budgets[budget]["accuracy"][name] for budget in budgets]
        mean = [estimate["mean"] for estimate in estimates]
        spread = [[e["mean"] - e["low"] for e in estimates], [e["high"] - e["mean"] for e in estimates]]
        strong = {"color": "tab:red", "linewidth": 2.5, "zorder": 4} if name == AUTO else {"alpha": 0.7}
        axis.errorbar([int(budget) for budget in budgets], mean, spread, label=name, capsize=2, **strong)
    axis.set(xlabel="budget in reasoning tokens", ylabel="accuracy", xscale="log")
    axis.set_xticks([int(budget) for budget in budgets], list(budgets))
    axis.legend(frameon=False, fontsize="small", loc="best")
    _save(figure, path)


def routing_cost(results: Json, path: Path) -> None:
    """Tokens against accuracy: checkpoints, `auto`, the rule without escalation, and two oracles."""
    unlimited, curves = results["unlimited"], results["curves"]
    points = {
        name: (figures["tokens"]["mean"], figures["accuracy"]["mean"])
        for name, figures in unlimited["checkpoints"].items()
    }
    auto = points.pop(AUTO)
    figure, axis = plt.subplots(figsize=(7, 4.6), layout="constrained")
    for name, style in (
        ("oracle, luck included", {"color": "black", "linestyle": ":"}),
        ("oracle of half the samples", {"color": "black"}),
        ("the rule without escalation", {"color": "tab:red"}),
    ):
        axis.plot(*_columns(curves[name]), label=name, **style)
    _mixing(axis, list(points.values()))
    for name, point in points.items():
        axis.annotate(name, point, textcoords="offset points", xytext=(4, -11), fontsize="small")
    axis.scatter(*auto, marker="*", s=160, color="tab:red", zorder=4, label="auto, as served")
    axis.set(xlabel="reasoning tokens", ylabel="accuracy", xlim=(0, 1.12 * max(x for x, _ in points.values())))
    axis.legend(frameon=False, fontsize="small", loc="lower right")
    _save(figure, path)


def calibration(results: Json, path: Path) -> None:
    """Predicted P(correct) against the share that was correct, of every checkpoint."""
    figure, axis = plt.subplots(figsize=(4.6, 4.4), layout="constrained")
    axis.plot([0, 1], [0, 1], color="grey", linewidth=1)
    for name, points in results["calibration"].items():
        axis.plot(*_columns(points), marker="o", label=name)
    axis.set(xlabel="predicted P(correct)", ylabel="share correct", xlim=(0.4, 1.01), ylim=(0.4, 1.01))
    axis.legend(frameon=False, loc="best")
    _save(figure, path)


def difficulty_cost(results: Json, path: Path) -> None:
    """Tokens against accuracy: what the rule reaches with each way to predict, beside the oracle."""
    figure, axis = plt.subplots(figsize=(7, 4.6), layout="constrained")
    _frontiers(axis, results, bold="counts, boosted")
    axis.set(xlabel="reasoning tokens", ylabel="accuracy")
    axis.legend(frameon=False, fontsize="small", loc="best")
    _save(figure, path)


def gsm8k(results: Json, path: Path) -> None:
    """Cost against accuracy of four real models, and what the rule reaches with each way to predict."""
    figure, axis = plt.subplots(figsize=(7, 4.6), layout="constrained")
    _frontiers(axis, results, bold="counts, boosted")
    for name, point in results["points"].items():
        axis.annotate(name, point, textcoords="offset points", xytext=(4, -10), fontsize="small")
    axis.set(xscale="log", xlabel="cost: billions of parameters x words written", ylabel="share right")
    axis.legend(frameon=False, fontsize="small", loc="best")
    _save(figure, path)


def _frontiers(axis: Any, results: Json, bold: str) -> None:
    axis.plot(*_columns(results["oracle"]), color="black", label="oracle")
    for name, curve in results["rules"].items():
        axis.plot(*_columns(curve), label=name, linewidth=2.5 if name == bold else 1)
    _mixing(axis, list(results["points"].values()))


def _mixing(axis: Any, points: Sequence[Point]) -> None:
    axis.plot(*_columns(hull([(x, y) for x, y in points])), color="grey", linestyle="--", label="mixing at random")
    axis.scatter(*_columns(points), color="grey", zorder=3)


def _columns(points: Sequence[Point]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    x, y = zip(*points, strict=True)
    return x, y


def _save(figure: plt.Figure, path: Path, dpi: int = 100) -> None:
    figure.savefig(path, dpi=dpi, metadata={"Software": None})
    plt.close(figure)
