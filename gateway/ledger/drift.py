"""Are the prompts still like those that the profile was fitted on? No I/O.

    distance = max over x in {0.2, 0.4, 0.6, 0.8} of |share of routed requests with a difficulty below x - x|
    bound    = sqrt(ln(2 / 0.05) / (2 n)),   n routed requests

A prompt's difficulty is the share of the fitting prompts that are predicted to be easier, so it is uniform on [0, 1]
for prompts like those. The distance is Kolmogorov's and Smirnov's, at the limits of the fifths in which the ledger sums
difficulties. In 95 of 100 samples, that of the traffic which they are from is within `bound` of it (Dvoretzky, Kiefer
and Wolfowitz, with the constant of Massart 1990), if requests are independent. A profile reads even prompts of the same
kind as a little more alike than its fitting prompts; `TOLERATED` allows for that (decision 53).

A request counts as routed if the rule chose for it, holdouts included. Pinned ones are left out, and so are the prompts
that the profile abstained from. Their share is a sign of its own, with its interval (Wilson 1927). It is the only one
if all prompts are equally difficult to the profile.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from gateway.ledger.savings import LIMITS, Cell, Totals, day_of, difficulty_label, sum_totals

Sign = Literal["unfamiliar", "harder", "easier", "more extreme", "less extreme"]
"""What is unlike the fitting prompts: many have features outside of theirs, or the difficulties differ."""
TOLERATED = 0.1
"""Largest distance that is not drift, once the bound is taken off. Prompts of the same kind have less (decision 53)."""
MAX_UNFAMILIAR = 0.05
"""Largest share of unfamiliar prompts that is not drift, at the lower end of its interval."""
MIN_UNFAMILIAR = 5
"""With fewer of them they are no sign, whatever their share is."""
_Z = 1.959964
"""The 97.5 % quantile of the normal distribution."""
_FIFTHS = [difficulty_label(limit) for limit in (0.0, *LIMITS)]


@dataclass(frozen=True)
class Drift:
    """How unlike the fitting prompts some requests' prompts are. Shares are of 1."""

    requests: int
    """Routed requests."""
    fifths: tuple[int, ...]
    """How many of them have a difficulty in each fifth of [0, 1], from easy to hard; the others have none."""
    abstained: int
    """Requests that the profile abstained from because the prompt is unlike the fitting prompts."""
    unreadable: int
    """Requests that it abstained from because the prompt is not plain text. No share or sign covers them."""
    abstained_share: float | None
    """`abstained` as a share of `abstained` and `requests`; None if both are 0. Then come its 95 % interval's ends."""
    abstained_low: float | None
    abstained_high: float | None
    distance: float | None
    """From the difficulties to the uniform distribution, in [0, 0.8]; None without difficulties."""
    bound: float | None
    """How far the distance may be from that of the traffic, with 95 % confidence."""
    signs: tuple[Sign, ...]
    """The signs of drift; empty if none is seen."""


@dataclass(frozen=True)
class DriftReport:
    """Drift in total, and by day (UTC) in ascending order."""

    total: Drift
    days: dict[str, Drift]

    def as_json(self) -> dict[str, object]:
        """The JSON of `drift` in `/v1/savings` and `laconic savings --json`."""
        return {**asdict(self.total), "days": {day: asdict(drift) for day, drift in self.days.items()}}


def compute_drift(cells: Iterable[tuple[Cell, Totals]]) -> DriftReport:
    """Compute the drift from the ledger's sums, in any order; a cell may occur several times."""
    days: defaultdict[str, list[tuple[Cell, Totals]]] = defaultdict(list)
    for cell, totals in cells:
        days[day_of(cell)].append((cell, totals))
    everything = [part for parts in days.values() for part in parts]
    return DriftReport(_of_cells(everything), {day: _of_cells(days[day]) for day in sorted(days)})


def drift_of(fifths: Sequence[int], abstained: int = 0, unreadable: int = 0, without: int = 0) -> Drift:
    """The drift of some requests, given how many there are of each kind.

    Args:
        fifths: routed requests by the fifth of their difficulty, (5,).
        abstained, unreadable: those that the profile abstained from.
        without: routed requests without a difficulty.
    """
    read = sum(fifths)
    requests = read + without
    share, low, high = wilson(abstained, abstained + requests)
    signs: list[Sign] = ["unfamiliar"] if abstained >= MIN_UNFAMILIAR and (low or 0) > MAX_UNFAMILIAR else []
    distance = bound = None
    if read:
        excess = [sum(fifths[: i + 1]) / read - limit for i, limit in enumerate(LIMITS)]
        distance, bound = max(map(abs, excess)), math.sqrt(math.log(2 / 0.05) / (2 * read))
        if distance - bound > TOLERATED:
            signs.append(_direction(excess))
    return Drift(requests, tuple(fifths), abstained, unreadable, share, low, high, distance, bound, tuple(signs))


def wilson(count: int, of: int) -> tuple[float, float, float] | tuple[None, None, None]:
    """A share and the ends of its 95 % interval (Wilson 1927); None without requests."""
    if of == 0:
        return None, None, None
    share, spread = count / of, _Z**2 / of
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    return share, max(middle - half, 0.0), min(middle + half, 1.0)


def _direction(excess: Sequence[float]) -> Sign:
    """How the difficulties differ, from the excess of their shares below `LIMITS` over uniform ones, (4,)."""
    easier, harder = max(0.0, *excess), max(0.0, *(-one for one in excess))
    if min(easier, harder) > max(easier, harder) / 2:
        return "more extreme" if excess.index(easier) < excess.index(-harder) else "less extreme"
    return "easier" if easier > harder else "harder"


def _of_cells(parts: Sequence[tuple[Cell, Totals]]) -> Drift:
    routed = Counter[str]()
    for cell, totals in parts:
        if cell.holdout_fraction is not None:
            routed[cell.difficulty] += totals.requests
    sums = sum_totals([totals for _, totals in parts])
    fifths = [routed[fifth] for fifth in _FIFTHS]
    return drift_of(fifths, sums.abstained, sums.unreadable, routed.total() - sum(fifths))
