"""Why did recent requests go where they went, and where would they go otherwise? Computed from ledger entries. No I/O.

An entry has the forecasts that its decision was based on, so the decision is explained, and made again with other
tolerances (`gateway.ledger.replay`), without the prompt. Everything here but the tokens that were spent is a prediction
of the profile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.ledger.entry import Entry
from gateway.ledger.replay import Replay, ReplaySide
from models.family import Family

SHOWN = 50
TOLERANCES = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
"""What is tried, besides the tolerance that is set."""
_MOVES = {
    "kept": "the conversation keeps its checkpoint",
    "moved_up": "the conversation moves to a choice that thinks longer",
    "moved_down": "the conversation moves to a choice that thinks less",
}
_ABSTENTIONS = {
    "unfamiliar": "the prompt is unlike what the profile was fitted on",
    "unreadable": "the prompt cannot be read",
    "none": "nothing is certified for the quality floor",
}


def recent(entries: Sequence[Entry]) -> dict[str, Any]:
    """What the entries say of budgets: how many requests had one, and how often an engine thought beyond it."""
    capped = [entry for entry in entries if entry.budget is not None]
    return {
        "requests": len(entries),
        "capped": len(capped),
        "over_cap": sum(entry.over_cap for entry in entries),
        "failed": sum(entry.status != 200 for entry in entries),
    }


def last_decisions(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """The latest entries, of which there are at most `SHOWN`. `entries` are newest first."""
    return [_decision(entry) for entry in entries[:SHOWN]]


def _decision(entry: Entry) -> dict[str, Any]:
    first, _, second = entry.choice.partition(">")
    routed = entry.holdout_fraction is not None and not entry.holdout and entry.succeeded
    expected = entry.reference_tokens if routed else None
    return {
        "id": entry.id,
        "time": entry.time,
        "key": entry.key,
        "decision": entry.decision,
        "choice": entry.choice,
        "checkpoint": entry.checkpoint,
        "escalated": bool(second) and entry.decision == "routed" and entry.checkpoint != first,
        "difficulty": entry.difficulty,
        "budget": entry.budget,
        "reasoning_tokens": entry.reasoning_tokens,
        "saved_tokens": None if expected is None else expected - entry.reasoning_tokens,
        "status": entry.status,
        "over_cap": entry.over_cap,
        "reason": reason(entry),
    }


def reason(entry: Entry) -> str:
    """Why the entry's checkpoint served, in words."""
    if entry.decision == "routed":
        return f"{_MOVES.get(entry.conversation, 'cheapest that is good enough')}: {_figures(entry)}"
    others = {
        "pinned": "the caller named this checkpoint",
        "holdout": f"drawn to measure what the reference spends, instead of {entry.choice}",
        "fallback": f"{entry.choice} was chosen, and no engine served it",
        "abstained": _ABSTENTIONS.get(entry.abstention, "the profile abstained"),
    }
    return others.get(entry.decision, "it ended before a decision")


def _figures(entry: Entry) -> str:
    chosen = entry.forecasts.get(entry.choice)
    if chosen is None:
        return "no forecast is recorded"
    best = max(entry.forecasts, key=lambda name: entry.forecasts[name].success)
    return (
        f"success {chosen.success:.3f} for {chosen.cost:.0f} tokens, best {entry.forecasts[best].success:.3f} ({best})"
    )


def _routed(entries: Sequence[Entry]) -> list[Entry]:
    """The entries that the rule decided, with what is needed to decide them again."""
    return [
        entry
        for entry in entries
        if entry.holdout_fraction is not None and entry.reference_tokens is not None and entry.choice in entry.forecasts
    ]


def frontier(entries: Sequence[Entry], family: Family) -> dict[str, Any]:
    """What each checkpoint alone, and the gateway's choices, are expected to do with the same recent requests.

    Requests count whose key may use every checkpoint. Tokens and success are means; `measured` has the figures of the
    family's own measurement, on other prompts.
    """
    names = [checkpoint.name for checkpoint in family.checkpoints]
    usable = [entry for entry in _routed(entries) if all(name in entry.forecasts for name in names)]

    def means(choices: Sequence[str]) -> dict[str, float | None]:
        forecasts = [entry.forecasts[choice] for entry, choice in zip(usable, choices, strict=True)]
        return {
            "tokens": _mean([forecast.tokens for forecast in forecasts]),
            "success": _mean([forecast.success for forecast in forecasts]),
        }

    points: list[dict[str, Any]] = [{"name": "auto", **means([entry.choice for entry in usable]), "measured": None}]
    for checkpoint in family.checkpoints:
        overall = checkpoint.frontier.overall
        measured = {"accuracy": overall.accuracy.model_dump(), "tokens": overall.reasoning_tokens.model_dump()}
        points.append({"name": checkpoint.name, **means([checkpoint.name] * len(usable)), "measured": measured})
    return {"requests": len(usable), "points": points}


def what_if(entries: Sequence[Entry], tolerance: float | None) -> dict[str, Any]:
    """What was chosen for recent requests, and what each of some tolerances would have chosen. In ascending order.

    Args:
        entries: in any order.
        tolerance: the one in use, which is tried as well; None if the reference serves everything.
    """
    routed = _routed(entries)
    tried = {*TOLERANCES} if tolerance is None else {*TOLERANCES, tolerance}
    replays = [Replay(one) for one in sorted(tried)]
    for replay in replays:
        for entry in routed:
            replay.add(entry)
    first = replays[0]
    return {
        "requests": first.requests,
        "reference_tokens": first.reference_tokens,
        "set": tolerance,
        "recorded": _side(first.recorded, first),
        "tolerances": [{"tolerance": one.tolerance, **_side(one.replayed, one)} for one in replays],
    }


def _side(side: ReplaySide, replay: Replay) -> dict[str, Any]:
    reference = replay.reference_tokens
    return {
        "tokens": side.tokens,
        "saved_share": (reference - side.tokens) / reference if reference > 0 else None,
        "success": side.success / replay.requests if replay.requests else None,
        "choices": dict(side.choices.most_common()),
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
