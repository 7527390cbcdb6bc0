from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import figures
from benchmarks.figures import MarkerError
from benchmarks.sources import FILES, Sources, UnknownFigureError
from benchmarks.tables import TABLES

SEEN = "<!-- =routing unlimited.checkpoints.alpha-0.05.accuracy %1 -->"


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    estimate = {"mean": 0.94125, "low": 0.929, "high": 0.9525}
    checkpoints = {
        name: {"accuracy": estimate, "tokens": {"mean": 81.785, "low": 79.0, "high": 84.0}}
        for name in ("base", "alpha-0", "alpha-0.05", "auto")
    }
    measured = {"saved_tokens": 120235.6, "low": 108527.0, "high": 130137.0}
    routing = {
        "prompts": 1200,
        "gain": -0.01,
        "unlimited": {"checkpoints": checkpoints},
        "live": {"savings": {"measured": measured}},
    }
    path = tmp_path / FILES["routing"]
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(routing))
    return Sources(tmp_path)


def filled(page: str, sources: Sources) -> str:
    return figures.filled(page, sources, TABLES)


@pytest.mark.parametrize(
    ("value", "how", "text"),
    [
        (0.93125, "%1", "93.1 %"),
        (0.7344, ".2", "0.73"),
        (120235.6, ",0", "120,236"),
        (7.5, "+1", "+7.5"),
        (-0.01, "p1", "-1.0 points"),
        (0.0134, "P1", "+1.3"),
        (-0.0001, "P1", "0.0"),
        ({"mean": 0.73, "low": 0.68, "high": 0.82}, ".2", "0.73 (0.68 to 0.82)"),
        ({"median": 55.3, "least": 49.4, "most": 65.2}, ".0", "55 (49 to 65)"),
        ({"mean": -0.01, "low": -0.018, "high": -0.001}, "p1", "-1.0 points (-1.8 to -0.1)"),
    ],
)
def test_a_figure_is_written_in_its_format(value: object, how: str, text: str) -> None:
    assert figures.render(value, how) == text


@pytest.mark.parametrize(
    ("value", "how"), [("alpha-0.2", "%1"), (True, "%1"), (0.5, "1"), (0.5, "%x"), ({"a": 1}, ".1")]
)
def test_what_is_no_figure_or_no_format_is_refused(value: object, how: str) -> None:
    with pytest.raises(MarkerError):
        figures.render(value, how)


def test_a_marked_figure_is_replaced_by_its_source_s_and_stays(sources: Sources) -> None:
    page = f"It is right in 12.3 %{SEEN} of questions, of 3<!-- =routing prompts ,0 --> in all."
    once = filled(page, sources)
    assert once == (
        f"It is right in 94.1 % (92.9 to 95.2){SEEN} of questions, of 1,200<!-- =routing prompts ,0 --> in all."
    )
    assert filled(once, sources) == once


def test_an_interval_that_is_wrapped_over_two_lines_stays_so(sources: Sources) -> None:
    page = f"It is right in 94.1 %\n(92.9 to 95.2){SEEN}."
    assert filled(page, sources) == page


def test_a_table_is_written_between_its_markers(sources: Sources) -> None:
    page = "Before.\n\n<!-- begin: routing -->\nold\n<!-- end: routing -->\n\nAfter.\n"
    once = filled(page, sources)
    assert "old" not in once
    assert "| **auto** | 94.1 % (92.9 to 95.2) | 81.8 (79.0 to 84.0) |" in once
    assert once.startswith("Before.\n")
    assert once.endswith("\nAfter.\n")
    assert filled(once, sources) == once


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("many<!-- =routing prompts ,0 -->", "is not behind a figure"),
        ("5<!-- =routing prompts -->", "is not SOURCE PATH FORMAT"),
        ("of\n<!-- =routing prompts ,0 -->5", "begins a line"),
        ("5<!-- =routing answers ,0 -->", "'answers' is none of"),
        ("5<!-- =nowhere prompts ,0 -->", "'nowhere' is none of"),
        ("5<!-- =routing unlimited ,0 -->", "is no figure"),
        ("<!-- begin: nothing -->\n<!-- end: nothing -->", "table nothing is none of"),
        ("<!-- begin: routing -->\n", "has no end"),
    ],
)
def test_a_marker_that_cannot_be_filled_is_refused_and_quoted(page: str, message: str, sources: Sources) -> None:
    with pytest.raises(MarkerError, match=message):
        filled(page, sources)


def test_keys_with_dots_and_slashes_are_found(sources: Sources) -> None:
    assert sources.value("routing", "unlimited.checkpoints.alpha-0.05.accuracy.mean") == 0.94125
    with pytest.raises(UnknownFigureError, match=r"alpha-0\.3"):
        sources.value("routing", "unlimited.checkpoints.alpha-0.3.accuracy")


@pytest.mark.parametrize(
    "line",
    [
        "It is right in 93.1 % of them.",
        "It takes 1.6 ms.",
        "55 times as many",
        "seven and 7 hours",
        "0.73 of it",
        "26 KiB",
    ],
)
def test_a_number_that_looks_like_a_measurement_must_name_its_source(line: str) -> None:
    assert figures.unmarked(f"# Title\n\n{line}\n", {}) == [line]


@pytest.mark.parametrize(
    "text",
    [
        f"It is right in 94.1 % (92.9 to 95.2){SEEN}.",
        "```\n62 %\n```",
        "Run:\n\n    laconic --tolerance 0.05\n\nNow.",
        "With `quality_tolerance` at `0.005`.",
        "See arXiv 2502.04463, and [here](0.5.md).",
        "The checkpoint alpha-0.2 at alpha 0.4.",
        "<!-- begin: routing -->\n\n| 93.1 % |\n\n<!-- end: routing -->",
        "A budget of 64 tokens, 400 questions.",
        "A 95 %\ninterval.",
    ],
)
def test_sources_code_names_and_allowed_phrases_are_no_unmarked_measurements(text: str) -> None:
    assert figures.unmarked(f"# Title\n\n{text}\n", {"95 % interval": "a confidence level"}) == []
