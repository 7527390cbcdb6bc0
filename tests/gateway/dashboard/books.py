"""A ledger as a busy week leaves it, for tests of the dashboard: made up by a seed, written as the gateway writes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from gateway import store
from gateway.ledger import feedback
from gateway.ledger.entry import Entry
from gateway.ledger.ledger import Ledger
from models.family import Family
from models.prediction import Forecast
from models.rule import cheapest_good_enough
from tests.conftest import RedisServer
from tests.gateway.entries import entry

HOSTILE = '"><img src=x onerror="window.broken = true"><script>window.broken = true</script>'
"""What somebody might call a key or a source of scores, hoping that a page takes it for markup."""
HOLDOUT, TOLERANCE = 0.1, 0.02


def week(family: Family, now: float, requests: int = 4_000, seed: int = 0) -> list[Entry]:
    """The entries of seven days that end at `now` (Unix seconds), in the order of their arrival."""
    rng = random.Random(seed)
    times = sorted(now - 7 * 86_400 * rng.random() ** 1.2 for _ in range(requests))
    return [_one(family, rng, at, number) for number, at in enumerate(times)]


def _one(family: Family, rng: random.Random, at: float, number: int) -> Entry:
    difficulty = rng.betavariate(1.1, 1.0)
    forecasts = _forecasts(family.ladder(), difficulty)
    choice = cheapest_good_enough(forecasts, TOLERANCE)
    reference = forecasts[family.reference]
    kind = rng.random()
    known = {
        "id": f"req_{number:032x}",
        "time": at,
        "key": rng.choice(["team-search", "team-search", "team-chat"]),
        "difficulty": difficulty,
        "budget": 200 if rng.random() < 0.2 else None,
        "choice": choice,
        "forecasts": forecasts,
        "holdout_fraction": HOLDOUT,
        "predicted_tokens": forecasts[choice].tokens,
        "reference_tokens": reference.tokens,
    }
    if kind < 0.02:
        abstained = {"decision": "abstained", "abstention": "unfamiliar", "forecasts": {}, "reference_tokens": None}
        served = {"choice": family.reference, "difficulty": None, "holdout_fraction": None, "predicted_tokens": None}
        return entry(**(known | abstained | served), checkpoint=family.reference, reasoning_tokens=120)
    if kind < 0.04:
        pinned = {"decision": "pinned", "choice": family.reference, "holdout_fraction": None}
        return entry(**(known | pinned), checkpoint=family.reference, reasoning_tokens=100)
    holdout = kind < 0.04 + HOLDOUT
    serving = family.reference if holdout else choice
    spent = round(forecasts[serving].tokens * rng.lognormvariate(-0.06, 0.35))
    first, _, second = serving.partition(">")
    return entry(
        **known,
        checkpoint=second.partition("@")[0] if second and rng.random() < 0.1 else first,
        decision="holdout" if holdout else "routed",
        reasoning_tokens=spent,
        over_cap=number % 500 == 3,
        status=502 if number % 250 == 5 else 200,
    )


def _forecasts(ladder: Sequence[str], difficulty: float) -> dict[str, Forecast]:
    """The checkpoints, from the one that thinks longest to the one that thinks least, and an escalation."""
    last = len(ladder) - 1
    longest = 40 + 220 * difficulty
    forecasts: dict[str, Forecast] = {}
    for rank, name in enumerate(ladder):
        tokens = longest * (1 - 0.75 * rank / last)
        success = 0.97 - 0.12 * difficulty - 0.5 * difficulty**3 * (rank / last) ** 2
        forecasts[name] = Forecast(success, tokens, tokens)
    brief, full = forecasts[ladder[last]], forecasts[ladder[0]]
    tokens = brief.tokens + 0.1 * full.tokens
    success = brief.success + 0.6 * (full.success - brief.success)
    return forecasts | {f"{ladder[last]}>{ladder[0]}@10%": Forecast(success, tokens, tokens)}


async def fill(server: RedisServer, state_dir: Path, entries: Sequence[Entry], scored: int = 2_400) -> None:
    """Write entries to an empty Redis, and scores of the latest of them."""
    ledger = Ledger(server.url, state_dir)
    await ledger.start()
    for one in entries:
        ledger.put(one)
    await ledger.aclose()
    rng = random.Random(1)
    redis = store.connect(server.url)
    for one in [one for one in entries if one.holdout_fraction is not None][-scored:]:
        success = one.forecasts[one.checkpoint if one.holdout else one.choice].success
        await feedback.record(redis, one, "thumbs", float(rng.random() < success))
        if rng.random() < 0.4:
            await feedback.record(redis, one, "verifier", float(rng.random() < success))
    await redis.aclose()


async def fill_with_markup(server: RedisServer, state_dir: Path, now: float) -> None:
    """Add a request of a key that is called like markup, with a score from a source that is called so, too."""
    ledger = Ledger(server.url, state_dir)
    await ledger.start()
    ledger.put(one := entry(key=HOSTILE, time=now))
    await ledger.aclose()
    redis = store.connect(server.url)
    await feedback.record(redis, one, HOSTILE, 1.0)
    await redis.aclose()
