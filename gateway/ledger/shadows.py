"""What did the reference answer to the same requests? Shadow comparisons: recorded without text, and summed up.

A comparison is of a request that another choice than the reference answered. Differences are of pairs, so that a few
show more than two groups of requests would. Agreement bounds the loss: quality cannot have changed where both answers
are the same. The judge's difference is the share of pairs in which it prefers the routed answer, minus the share in
which it prefers the reference's; where only one of the two has an answer, that one is preferred. Its interval is that
of Agresti and Min (2005) for matched pairs.

A judge may fail, or say nothing that can be read. Pairs that differ and have no verdict are missing, not equal: their
difference is taken to be that of the others that differ, and the interval is wider for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Annotated, cast

from pydantic import Field, TypeAdapter, ValidationError
from redis.asyncio import Redis

from gateway.access.cost import Spent
from gateway.ledger.drift import wilson
from gateway.ledger.ledger import Page

STREAM = "{laconic:ledger}:shadows"
MAX_SHADOWS = 100_000
"""Most comparisons that are kept."""
MIN_PAIRS = 30
"""Fewest pairs for an interval of the judge's difference."""
MIN_VERDICTS = 10
"""Fewest verdicts for it, where some are missing."""
_Z = 1.959964
_Tokens = Annotated[int, Field(ge=0, le=2**53)]
Usage = tuple[_Tokens, _Tokens, _Tokens, _Tokens]
"""Tokens of the prompt, those of them that were cached, of the reasoning and of the answer."""


@dataclass(frozen=True)
class Shadow:
    """One comparison, or an attempt that came to nothing but cost something."""

    time: float
    """When the request arrived, in Unix seconds."""
    key: str
    choice: str
    """Which checkpoint or escalation answered the caller."""
    agrees: bool | None
    """Whether both final answers are the same; None if neither gave one, or the reference failed."""
    verdict: Annotated[int, Field(ge=-1, le=1)] | None
    """1 if the judge prefers the routed answer, -1 if the reference's, 0 if neither; None if it was not asked."""
    routed_tokens: _Tokens
    """Reasoning and answer tokens of the answer that the caller got."""
    reference_tokens: _Tokens
    """The same of the reference's answer: what the comparison cost, with the judge's."""
    judge_tokens: _Tokens
    reference_usage: Usage = (0, 0, 0, 0)
    """What the reference's answer took; zeros in comparisons of an earlier version."""
    judge_usage: Usage = (0, 0, 0, 0)

    @property
    def spent(self) -> tuple[Spent, Spent]:
        """What the reference and the judge took."""
        return Spent(*self.reference_usage), Spent(*self.judge_usage)


_SHADOW = TypeAdapter(Shadow)


@dataclass(frozen=True)
class Comparisons:
    """All comparisons of a window."""

    compared: int
    agreed: int
    agreement: float | None
    """Share of the compared pairs that agree; None without any. Then come its 95 % interval's ends."""
    agreement_low: float | None
    agreement_high: float | None
    judged: int
    """Pairs that differ and have a verdict."""
    better: int
    """Pairs in which the judge prefers the routed answer."""
    worse: int
    unjudged: int
    """Pairs that differ and have no verdict: there was no judge, or it failed."""
    difference: float | None
    """What the judge's preferences come to, of all pairs compared; None without a judge, with fewer than `MIN_PAIRS`,
    or if it has hardly judged. Then come its interval's ends."""
    low: float | None
    high: float | None
    routed_tokens: int
    reference_tokens: int
    """Tokens that the reference spent on the same requests, and only for this."""
    judge_tokens: int

    def as_json(self) -> dict[str, object]:
        """The JSON of `shadows` in `/v1/savings`."""
        return asdict(self)


def compare(shadows: Iterable[Shadow]) -> Comparisons:
    """Sum up comparisons."""
    every = list(shadows)
    agreed = [one.agrees for one in every if one.agrees is not None]
    verdicts = [one.verdict for one in every if one.agrees is False and one.verdict is not None]
    better, worse = verdicts.count(1), verdicts.count(-1)
    differed = len(agreed) - sum(agreed)
    has_judge = any(one.verdict is not None for one in every)
    return Comparisons(
        len(agreed),
        sum(agreed),
        *wilson(sum(agreed), len(agreed)),
        len(verdicts),
        better,
        worse,
        differed - len(verdicts),
        *(preferred(better, worse, len(verdicts), differed, len(agreed)) if has_judge else (None, None, None)),
        sum(one.routed_tokens for one in every),
        sum(one.reference_tokens for one in every),
        sum(one.judge_tokens for one in every),
    )


def preferred(
    better: int, worse: int, judged: int, differed: int, pairs: int
) -> tuple[float, float, float] | tuple[None, None, None]:
    """The difference over all pairs with its 95 % interval, where only some of those that differ have a verdict.

    It is the share that differs times the difference among those with a verdict. The two are independent, so the
    squares of what each contributes to the half-width add up.

    Args:
        better: verdicts for the routed answer.
        worse: verdicts for the reference's.
        judged: verdicts, of pairs that differ.
        differed: pairs that differ.
        pairs: pairs compared.
    """
    if judged == differed:
        return matched_pairs(better, worse, pairs)
    if pairs < MIN_PAIRS or judged < MIN_VERDICTS:
        return None, None, None
    share, _, high = wilson(differed, pairs)
    of_judged = _wald(better, worse, judged)
    assert share is not None
    assert high is not None
    middle, half = share * of_judged[0], math.hypot(share * of_judged[1], of_judged[0] * (high - share))
    return _around(share * (better - worse) / judged, middle, half)


def matched_pairs(better: int, worse: int, pairs: int) -> tuple[float, float, float] | tuple[None, None, None]:
    """(better - worse) / pairs with its 95 % interval, of Wald after half an observation in each of the four cells."""
    if pairs < MIN_PAIRS:
        return None, None, None
    middle, half = _wald(better, worse, pairs)
    return _around((better - worse) / pairs, middle, half)


def _wald(better: int, worse: int, pairs: int) -> tuple[float, float]:
    """The middle and the half-width of the interval."""
    n, plus, minus = pairs + 2, better + 0.5, worse + 0.5
    return (plus - minus) / n, _Z * math.sqrt(max(plus + minus - (plus - minus) ** 2 / n, 0.0)) / n


def _around(difference: float, middle: float, half: float) -> tuple[float, float, float]:
    """The difference and the interval's ends, which include it and are differences of shares."""
    return difference, max(min(middle - half, difference), -1.0), min(max(middle + half, difference), 1.0)


async def add(redis: Redis, shadow: Shadow) -> None:
    """Record a comparison.

    Raises:
        RedisError, OSError: Redis is down.
    """
    line = _SHADOW.dump_json(shadow).decode()
    await redis.xadd(STREAM, {"shadow": line}, maxlen=MAX_SHADOWS, approximate=True)


async def read(redis: Redis, since: float) -> list[Shadow]:
    """The comparisons of requests that arrived at `since` (Unix seconds) or later."""
    found: list[Shadow] = []
    start = str(max(0, int((since - 60) * 1000)))
    while page := cast("Page", await redis.xrange(STREAM, min=start, count=1000)):
        for _, values in page:
            try:
                shadow = _SHADOW.validate_json(values["shadow"])
            except ValidationError:  # from another version
                continue
            if shadow.time >= since:
                found.append(shadow)
        start = f"({page[-1][0]}"
    return found
