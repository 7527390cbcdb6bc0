"""Which figures does the dashboard show? All of them, computed from what was read of the ledger. No I/O.

`GET /v1/overview` has the same figures as JSON, so that whatever the page says can be had without the page.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from gateway.access.cost import BILLIONTHS
from gateway.access.keys import Key
from gateway.access.prices import PriceList
from gateway.access.usage import Usage
from gateway.dashboard import decisions
from gateway.ledger.drift import compute_drift
from gateway.ledger.entry import Entry
from gateway.ledger.ledger import LedgerSnapshot
from gateway.ledger.money import Lines, Money, compute_money
from gateway.ledger.quality import Score, compute_quality
from gateway.ledger.savings import Cell, Group, Totals, cell_of, compute_savings
from gateway.ledger.shadows import Shadow, compare
from gateway.ledger.usage import Line
from gateway.ledger.usage import Usage as Used
from models.family import Family

Window = Literal["24h", "7d", "30d", "90d"]
HOURS: dict[Window, int] = {"24h": 24, "7d": 168, "30d": 720, "90d": 2160}
MAX_KEYS = 100
"""Most keys that are shown, those with the most requests."""
_LIMITS = {
    "requests_per_minute": ("requests", None, 1),
    "reasoning_tokens_per_minute": ("minute_tokens", "reserved", 1),
    "reasoning_tokens_per_day": ("day_tokens", "reserved", 1),
    "money_per_day": ("day_money", "reserved_money", BILLIONTHS),
    "money_per_month": ("month_money", "reserved_money", BILLIONTHS),
}
"""The limits that are counted, the fields of `Usage` that count against each, and the parts that those count."""


@dataclass(frozen=True)
class Reading:
    """What was read of Redis for one overview."""

    snapshot: LedgerSnapshot
    scores: list[Score]
    shadows: list[Shadow]
    entries: list[Entry]
    """The latest ones of the window, newest first."""
    usage: dict[str, Usage]
    """By key that has limits."""
    lines: Lines = ()
    """What was used, for its cost; empty without prices."""


@dataclass(frozen=True)
class Setting:
    """What the figures are about, besides the ledger."""

    family: Family
    keys: tuple[Key, ...]
    quality_tolerance: float | None
    """The one in use, which a floor may have chosen; None if nothing is certified for the floor."""
    quality_floor: float | None
    holdout_fraction: float
    health: dict[str, Any]
    prices: PriceList | None = None


def overview(reading: Reading, setting: Setting, window: Window, now: float) -> dict[str, Any]:
    """Every figure of the dashboard, as JSON. `now` is Unix seconds."""
    snapshot = reading.snapshot
    savings = compute_savings(snapshot.cells, snapshot.holdouts, "checkpoint", snapshot.since_hour)
    quality = compute_quality(snapshot.cells, reading.scores, "checkpoint", None, snapshot.since_hour)
    drift = compute_drift(snapshot.cells)
    family = setting.family
    return {
        "computed": now,
        "window": window,
        "since": snapshot.since_hour * 3600,
        "family": {"name": family.name, "reference": family.reference},
        "settings": {
            "quality_tolerance": setting.quality_tolerance,
            "quality_floor": setting.quality_floor,
            "holdout_fraction": setting.holdout_fraction,
        },
        "savings": savings.as_json(),
        **_money(reading, setting),
        "over_time": over_time(reading, setting, hourly=window == "24h"),
        "quality": quality.as_json(),
        "shadows": compare(reading.shadows).as_json(),
        "drift": drift.as_json(),
        "recent": decisions.recent(reading.entries),
        "frontier": decisions.frontier(reading.entries, family),
        "what_if": decisions.what_if(reading.entries, setting.quality_tolerance),
        "decisions": decisions.last_decisions(reading.entries),
        "keys": _keys(snapshot, setting.keys, reading.usage),
        "health": setting.health,
    }


def _money(reading: Reading, setting: Setting) -> dict[str, Any]:
    """The field `money`, if there are prices."""
    if setting.prices is None:
        return {}
    holdouts, spent = reading.snapshot.holdouts, [one.spent for one in reading.shadows]
    of = (reading.lines, holdouts, setting.prices, setting.family.reference)
    return {"money": compute_money(*of, by="checkpoint", shadows=spent).as_json()}


def over_time(reading: Reading, setting: Setting, *, hourly: bool) -> list[dict[str, Any]]:
    """The savings of each day (UTC), or of each hour, that has requests. `start` is its Unix time."""
    snapshot, prices, reference = reading.snapshot, setting.prices, setting.family.reference
    if not hourly:
        groups = compute_savings(snapshot.cells, snapshot.holdouts, "day", snapshot.since_hour).groups
        money: dict[str, Money] = {}
        if prices is not None:
            money = compute_money(reading.lines, snapshot.holdouts, prices, reference, by="day").groups
        starts = {day: int(datetime.fromisoformat(f"{day}T00:00+00:00").timestamp()) for day in groups}
        return [_point(starts[day], groups[day], money.get(day)) for day in groups]
    cells: defaultdict[int, list[tuple[Cell, Totals]]] = defaultdict(list)
    holdouts: defaultdict[int, list[Entry]] = defaultdict(list)
    lines: defaultdict[int, list[tuple[Line, Used]]] = defaultdict(list)
    for cell, totals in snapshot.cells:
        cells[cell.hour].append((cell, totals))
    for entry in snapshot.holdouts:
        holdouts[cell_of(entry).hour].append(entry)
    for line, used in reading.lines:
        lines[line.hour].append((line, used))
    points: list[dict[str, Any]] = []
    for hour in sorted(hour for hour in cells if hour >= snapshot.since_hour):
        spent = prices and compute_money(lines[hour], holdouts[hour], prices, reference, by="day").total
        points.append(_point(hour * 3600, compute_savings(cells[hour], holdouts[hour]).total, spent))
    return points


def _point(start: int, group: Group, money: Money | None) -> dict[str, Any]:
    return {"start": start, **group.as_json(), **({} if money is None else {"money": asdict(money)})}


def _keys(snapshot: LedgerSnapshot, keys: Sequence[Key], usage: Mapping[str, Usage]) -> list[dict[str, Any]]:
    """What each key spent in the window, and how much of its limits it has used now."""
    groups = compute_savings(snapshot.cells, snapshot.holdouts, "key", snapshot.since_hour).groups
    by_name = {key.name: key for key in keys}
    names = [*groups, *sorted(by_name.keys() - groups.keys())][:MAX_KEYS]
    none = Group(Totals(), None)
    return [
        {
            "name": name,
            "revoked": name not in by_name and name != "(none)",
            "requests": groups.get(name, none).totals.requests,
            "spent_tokens": groups.get(name, none).totals.spent_tokens,
            "saved_tokens": groups.get(name, none).totals.saved_tokens,
            "limits": _limits(by_name.get(name), usage.get(name)),
        }
        for name in names
    ]


def _limits(key: Key | None, usage: Usage | None) -> list[dict[str, Any]]:
    """The limits of a key, with what is used of those that are counted; running requests count in full."""
    if key is None:
        return []
    limits: list[dict[str, Any]] = []
    for name, (spent, reserved, parts) in _LIMITS.items():
        if (most := getattr(key, name)) is None:
            continue
        used = None
        if usage is not None:
            used = getattr(usage, spent) + (getattr(usage, reserved) if reserved else 0)
            used = used if parts == 1 else used / parts
        limits.append({"name": name, "most": most if parts == 1 else float(most), "used": used})
    if key.max_concurrency is not None:  # each worker counts for itself
        limits.append({"name": "max_concurrency", "most": key.max_concurrency, "used": None})
    return limits
