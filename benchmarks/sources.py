"""Where does a figure in the docs come from? Every committed measurement, by a short name and a path of keys.

`Sources(root).value("routing", "unlimited.checkpoints.auto.accuracy.mean")` looks a figure up. Derived figures, such as
a ratio of two, are added here, so that a page never computes anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from models.family import Estimate
from training.experiments.arms import Arm, difference, ratio
from training.experiments.report import read_arms

QUOTED_MACHINE = "intel-xeon-processor-avx512bf16-2cores"
"""Whose figures of `make bench-gateway` the pages quote, of those in results/gateway; they are never mixed."""
FILES = {
    "routing": "docs/routing/routing.json",
    "conversations": "docs/routing/conversations.json",
    "difficulty": "docs/profile/difficulty.json",
    "tolerance": "docs/profile/tolerance.json",
    "gsm8k": "docs/profile/gsm8k.json",
    "readers": "docs/profile/readers.json",
    "fit": "benchmarks/results/profile-fit.json",
    "answer-tokens": "docs/profile/answer_tokens.json",
    "state": "docs/profile/model-state.json",
    "floor": "docs/profile/floor.json",
    "few": "docs/profile/few_prompts.json",
    "gateway": f"benchmarks/results/gateway/{QUOTED_MACHINE}.json",
    "growth": "benchmarks/results/growth.json",
    "instructions": "benchmarks/results/instructions.json",
    "attacks": "benchmarks/results/attacks.json",
    "soak": "benchmarks/results/soak.json",
    "surfaces": "benchmarks/results/surfaces.json",
    "dense": "benchmarks/results/dense_reward.json",
    "decision": "benchmarks/results/decision.json",
    "savings": "benchmarks/results/savings_interval.json",
    "quality": "benchmarks/results/quality_interval.json",
    "drift": "benchmarks/results/drift.json",
    "live-holdout": "benchmarks/results/live_holdout.json",
    "live-spoiled": "benchmarks/results/live_spoiled.json",
    "live-drift": "benchmarks/results/live_drift.json",
    "live-overhead": "benchmarks/results/live_overhead.json",
    "adopted-qwen": "benchmarks/results/adopted/qwen2.5-coder-0.5b.json",
    "adopted-abacus": "benchmarks/results/adopted/abacus-vllm.json",
    "adopted-transformers": "benchmarks/results/adopted/abacus-transformers.json",
    "training": "models/abacus/report/training.json",
    "profile": "models/abacus/profile.json",
}
EXPERIMENTS = {
    "experiments": "docs/experiments/results",
    "experiments-tamed": "docs/experiments/results-tamed",
    "experiments-long": "docs/experiments/results-long",
}
"""Directories of results that `training.experiments.report` reads."""
_COMPARISON = re.compile(r"(?P<arm>.+) (?P<how>[-/]) (?P<other>.+): (?P<figure>.+)")


class UnknownFigureError(LookupError):
    """No figure has this name; the message says which part of the path is unknown."""


class Sources:
    """The measurements committed under `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def value(self, source: str, path: str) -> Any:
        """The figure at `path`, keys joined by dots; keys may have dots themselves.

        In the experiments, `ARM: FIGURE` is an arm's figure, `ARM - OTHER: FIGURE` a difference and
        `ARM / OTHER: FIGURE` a ratio, each with its interval over seeds.

        Raises:
            UnknownFigureError: there is no such source or key.
        """
        if source in EXPERIMENTS:
            return _of_experiments(self.arms(source), path)
        value: Any = self.table(source)
        rest = path
        while rest:
            keys = list(value) if isinstance(value, Mapping) else []
            matching = [key for key in keys if rest == key or rest.startswith(f"{key}.")]
            if not matching:
                raise UnknownFigureError(f"{source} {path}: {rest!r} is none of {', '.join(keys) or 'nothing'}")
            key = max(matching, key=len)
            value, rest = value[key], rest[len(key) + 1 :]
        return value

    @cache  # noqa: B019  a few instances live, each for one command
    def table(self, source: str) -> dict[str, Any]:
        """A whole source, its derived figures included."""
        if source == "family":
            return _family(json.loads((self._root / "models/abacus/family.json").read_text()))
        if source not in FILES:
            raise UnknownFigureError(f"{source!r} is none of family, {', '.join((*FILES, *EXPERIMENTS))}")
        table = json.loads((self._root / FILES[source]).read_text())
        return {**table, **_DERIVED.get(source, lambda _: {})(table)}

    @cache  # noqa: B019
    def arms(self, source: str) -> dict[str, Arm]:
        """Every checkpoint that the experiments trained, by name; the base first."""
        return {arm.name: arm for arm in read_arms(self._root / EXPERIMENTS[source])}


def _of_experiments(arms: Mapping[str, Arm], path: str) -> Estimate:
    comparison = _COMPARISON.fullmatch(path)
    try:
        if comparison is None:
            name, _, figure = path.rpartition(": ")
            return arms[name].figures[figure]
        compare = difference if comparison["how"] == "-" else ratio
        return compare(arms[comparison["arm"]], arms[comparison["other"]], comparison["figure"])
    except KeyError as error:
        raise UnknownFigureError(f"{path}: {error} is none of {', '.join(arms)}, or of their figures") from None


def _family(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """By checkpoint: its frontier, and its tokens as a share of the base's."""
    frontiers = {one["name"]: one["frontier"] for one in manifest["checkpoints"]}
    base = frontiers[manifest["base"]]["overall"]["reasoning_tokens"]["mean"]
    return {
        name: {**frontier, "share": frontier["overall"]["reasoning_tokens"]["mean"] / base}
        for name, frontier in frontiers.items()
    }


def _training(table: Mapping[str, Any]) -> dict[str, Any]:
    total = sum(table["minutes"].values())
    return {"total minutes": total, "total hours": total / 60, "million parameters": table["parameters"] / 1e6}


def _routing(table: Mapping[str, Any]) -> dict[str, Any]:
    checkpoints = table["unlimited"]["checkpoints"]
    auto = checkpoints["auto"]
    live = table["live"]
    measured = live["savings"]["measured"]
    saved = {"mean": measured["saved_tokens"], "low": measured["low"], "high": measured["high"]}
    return {
        "live": {**live, "savings": {**live["savings"], "saved": saved}},
        "share of the base's tokens": auto["tokens"]["mean"] / checkpoints["base"]["tokens"]["mean"],
        "accuracy beyond the base": auto["accuracy"]["mean"] - checkpoints["base"]["accuracy"]["mean"],
    }


def _dense(table: Mapping[str, Any]) -> dict[str, Any]:
    return {f"compression at {row['episodes']}": row for row in table["compression"]}


def _decision(table: Mapping[str, Any]) -> dict[str, Any]:
    """With the shares of the limits, 50 and 100 microseconds, as microseconds."""
    limits = {"p50": 50.0, "p99": 100.0}

    def with_microseconds(one: Mapping[str, Any]) -> dict[str, Any]:
        times = {
            f"{quantile} microseconds": {name: limit * share for name, share in one[f"{quantile} / limit"].items()}
            for quantile, limit in limits.items()
        }
        return {**one, **times}

    return {kind: with_microseconds(table[kind]) for kind in ("held-out questions", "prompts of other kinds")}


def _growth(table: Mapping[str, Any]) -> dict[str, Any]:
    """With the most memory and the most time of each dimension, and how long the longest replay would take."""
    dimensions = {
        name: {**one, "most MiB": max(one.get("MiB", [0.0])), "most seconds": max(one["microseconds"]) / 1e6}
        for name, one in table["dimensions"].items()
    }
    replay = dimensions["entries of a replay"]
    replay["minutes for ten million"] = replay["most seconds"] * 10**7 / replay["sizes"][-1] / 60
    return {"dimensions": dimensions}


_DERIVED = {"growth": _growth, "training": _training, "routing": _routing, "dense": _dense, "decision": _decision}
