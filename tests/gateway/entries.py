"""Ledger entries for tests: a plain one, and a strategy for arbitrary ones."""

from __future__ import annotations

import uuid
from typing import Any

from hypothesis import strategies as st

from gateway.ledger.entry import Entry
from models.prediction import Forecast


def entry(**changes: Any) -> Entry:
    """A finished, routed request with a unique id."""
    plain: dict[str, Any] = {
        "id": uuid.uuid4().hex, "time": 1_800_000_000.5, "key": "", "checkpoint": "alpha-0.2", "alpha": 0.2,
        "decision": "routed", "choice": changes.get("checkpoint", "alpha-0.2"), "holdout_fraction": 0.1,
        "holdout": changes.get("decision") == "holdout",
        "difficulty": 0.25, "budget": None, "choices": 1, "prompt_tokens": 20, "reasoning_tokens": 40,
        "answer_tokens": 5, "predicted_tokens": 42.0, "reference_tokens": 80.0,
        "forecasts": {"base": Forecast(0.95, 80.0, 80.0), "alpha-0.2": Forecast(0.94, 42.0, 42.0)},
        "finish_reason": "stop", "status": 200, "error": "", "first_token_seconds": 0.1, "total_seconds": 0.5,
    }  # fmt: skip
    return Entry(**(plain | changes))


def entries() -> st.SearchStrategy[Entry]:
    """Arbitrary entries."""
    tokens = st.integers(0, 100_000)
    seconds = st.floats(0, 1e6)
    return st.builds(
        Entry,
        id=st.uuids().map(str),
        time=st.floats(0, 4e9),
        key=st.text(st.characters(exclude_categories=["Cs"])),
        checkpoint=st.sampled_from(["base", "alpha-0", "alpha-0.4"]),
        alpha=st.none() | st.floats(0, 1, exclude_max=True),
        decision=st.sampled_from(["routed", "pinned", "holdout", "abstained", "fallback"]),
        choice=st.sampled_from(["base", "alpha-0", "alpha-0.4"]),
        holdout_fraction=st.none() | st.sampled_from([0.0, 0.02, 1.0]),
        holdout=st.booleans(),
        difficulty=st.none() | st.floats(0, 1),
        budget=st.none() | tokens,
        choices=st.integers(1, 128),
        prompt_tokens=tokens,
        reasoning_tokens=tokens,
        answer_tokens=tokens,
        predicted_tokens=st.none() | st.floats(0, 1e6),
        reference_tokens=st.none() | st.floats(0, 1e6),
        forecasts=st.dictionaries(
            st.sampled_from(["base", "alpha-0.4"]),
            st.builds(Forecast, st.floats(0, 1), *[st.floats(0, 1e6)] * 3),
        ),
        finish_reason=st.sampled_from(["stop", "length", ""]),
        status=st.sampled_from([200, 499, 502, 503]),
        error=st.text(st.characters(exclude_categories=["Cs"])),
        first_token_seconds=st.none() | seconds,
        total_seconds=seconds,
        assumed=st.booleans(),
        answered=st.booleans(),
        counting=st.sampled_from(["reported", "repaired", "counted"]),
        over_cap=st.booleans(),
        cached_tokens=st.none() | tokens,
        conversation=st.sampled_from(["none", "begun", "kept", "moved_up", "moved_down"]),
        abstention=st.sampled_from(["none", "unfamiliar", "unreadable"]),
        team=st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
        first_checkpoint=st.sampled_from(["", "alpha-0.4"]),
        first_reasoning_tokens=tokens,
        first_answer_tokens=tokens,
        reference_answer_tokens=st.none() | st.floats(0, 1e6),
    )
