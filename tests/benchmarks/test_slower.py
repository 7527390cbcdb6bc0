from __future__ import annotations

import copy
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import slower

STREAMS = "requests/s, streamed 16, laconic / vllm-router"
ADDED = "ms to first event, steady, laconic - direct, p99"
PEER = "ms to first event, steady, vllm-router - direct, p99"
BEFORE: dict[str, Any] = {
    "machine": {"commit": "ee50f1e", "load before": 0.3},
    "ratios": {
        STREAMS: {"median": 0.6, "least": 0.55, "most": 0.65},
        ADDED: {"median": 4.0, "least": 3.0, "most": 5.0},
        PEER: {"median": 2.0, "least": 1.9, "most": 2.1},
    },
    "KiB per idle stream": {"laconic": 30.0, "vllm-router": 90.0},
}


def now(name: str, median: float) -> dict[str, Any]:
    figures = copy.deepcopy(BEFORE)
    figures["ratios"][name]["median"] = median
    return figures


@pytest.mark.parametrize(("name", "median"), [(STREAMS, 0.54), (ADDED, 5.1)])
def test_a_figure_that_is_worse_than_the_worst_earlier_turn_is_slower(name: str, median: float) -> None:
    (line,) = slower.became_slower(BEFORE, now(name, median))
    assert name in line


@pytest.mark.parametrize(
    ("name", "median"),
    [(STREAMS, 0.56), (STREAMS, 0.9), (ADDED, 4.9), (ADDED, 1.0), (PEER, 9.0)],
    ids=["within its range", "faster", "added within its range", "added less", "another gateway's"],
)
def test_what_is_within_the_earlier_range_or_better_is_not_slower(name: str, median: float) -> None:
    assert list(slower.became_slower(BEFORE, now(name, median))) == []


def test_a_tenth_more_memory_for_an_idle_stream_is_named() -> None:
    heavier = {**BEFORE, "KiB per idle stream": {"laconic": 34.0}}
    (line,) = slower.became_slower(BEFORE, heavier)
    assert "34, was 30" in line


def test_the_report_names_commit_kind_and_load_and_says_if_there_is_nothing_to_compare_with() -> None:
    assert slower.report(BEFORE, now(STREAMS, 0.1), "a-cpu").startswith("Slower than ee50f1e on a-cpu")
    assert slower.report(BEFORE, BEFORE, "a-cpu").startswith("Nothing is slower than ee50f1e on a-cpu")
    assert slower.report(None, BEFORE, "a-cpu") == "Nothing to compare with: no figures of a-cpu are committed."


def test_the_committed_figures_are_compared_with_and_not_those_of_the_last_run(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    path = tmp_path / "a-cpu.json"
    git("init")
    path.write_text('{"turns": 1}')
    git("add", ".")
    git("commit", "-m", "figures")
    path.write_text('{"turns": 2}')
    assert slower.committed(path) == {"turns": 1}
    assert slower.committed(tmp_path / "other.json") is None
