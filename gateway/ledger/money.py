"""How much money was saved? By prices, from the same requests as the tokens that were saved. No I/O.

    estimate = sum over answered requests of (what the reference was expected to cost - what was spent)
               - what was spent by requests that another router never reported, which is the most that it could be
    measured = n mean of y over the holdout, adjusted as in `gateway.ledger.savings` - sum of y over the n others
    y        = cost of the request - cost of its prompt at the reference's price

Both sides read the same prompts, so the prompt at the reference's price is the same for both and would only widen the
interval. What differs stays in y: a smaller checkpoint's cheaper prompt, and the prompt that an escalation reads twice.
The reference is expected to find as much of the prompt in its cache as was found. Its answer is as long as the profile
expects, or as the one that was given if the profile does not predict answers.

Prices are those of now, also for requests of before. Requests that were decided on, or served by, a checkpoint that has
no price now are left out on both sides, and where they are many, nothing is measured: nobody knows what they cost.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from gateway.access.cost import TRILLIONTHS, Part, Price, Spent, cost
from gateway.access.prices import PriceList
from gateway.ledger.entry import Entry
from gateway.ledger.savings import (
    LABELS,
    MAX_ASSUMED,
    MIN_HOLDOUTS,
    By,
    HoldoutSample,
    Totals,
    TreatmentTotals,
    add_intervals,
    cell_of,
    complete_from,
    count_informative,
    had_draw,
    measure,
)
from gateway.ledger.usage import MILLI, Line, Outcome, Usage, spent_of, sum_usage, tokens_of

ESTIMATED: tuple[Outcome, ...] = ("answered", "unreported")
"""Those that the estimate covers. Unreported ones are a loss, so that hiding requests does not pay."""
MAX_UNPRICED = 0.01
"""Largest share of tokens at one holdout fraction whose requests have no price, for which money is measured."""


@dataclass(frozen=True)
class MeasuredMoney:
    """Money saved as measured against the holdout, with a 95 % interval, in currency units."""

    saved: float
    low: float
    high: float
    requests: int


@dataclass(frozen=True)
class Money:
    """What some requests cost, in currency units."""

    spent: float
    """By routed requests that are no holdouts, have prices, and were answered or never reported by another router."""
    reference: float
    """What the reference was expected to cost for the answered ones."""
    saved: float
    total: float
    """What all requests cost, holdouts and failures included."""
    measured: MeasuredMoney | None
    unpriced_tokens: int
    """Tokens of checkpoints that have no price. They are in no amount."""


@dataclass(frozen=True)
class SavedMoney:
    """Money by one dimension, in total, and what was spent on comparisons only."""

    currency: str
    groups: dict[str, Money]
    total: Money
    shadows: float
    judge: float | None
    """None if judges have no price."""

    def as_json(self) -> dict[str, object]:
        """The JSON of `money` in `/v1/savings` and `laconic savings --json`."""
        return asdict(self)


@dataclass(frozen=True)
class _Prices:
    """Prices, and which of them is the reference's."""

    list: PriceList
    reference: str

    def covers(self, choice: str, checkpoints: Iterable[str]) -> bool:
        """Whether there are prices of the reference, of what was decided on, and of what served."""
        # By the choice as well, because an escalated request has lines of two checkpoints, which stay together so, and
        # because the choice comes before the draw: both sides of it lose the same requests.
        first, _, second = choice.partition(">")
        names = (self.reference, first, second.partition("@")[0], *checkpoints)
        return all(self.list.of(name) is not None for name in names if name)

    @property
    def own(self) -> Price:
        """The reference's."""
        price = self.list.of(self.reference)
        assert price is not None
        return price

    def beyond(self, parts: Iterable[Part]) -> int:
        """y of a request's parts, or of sums of them, in trillionths."""
        own, total = self.own, 0
        for part in parts:
            spent = part.spent
            prompt = Spent() if part.repeats else Spent(spent.prompt, spent.cached)
            total += self.cost_of(part.checkpoint, spent) - cost(own, prompt)
        return total

    def cost_of(self, checkpoint: str, spent: Spent) -> int:
        """In trillionths; 0 of a checkpoint without a price."""
        price = self.list.of(checkpoint)
        return 0 if price is None else cost(price, spent)

    def expected(self, usage: Usage) -> float:
        """What the reference was expected to cost for requests, in trillionths."""
        own = self.own
        prompt = cost(own, Spent(usage.prompt_tokens, usage.cached_tokens))
        return prompt + (usage.expected_reasoning * own.reasoning + usage.expected_answer * own.answer) / MILLI


Lines = Sequence[tuple[Line, Usage]]
Shadow = tuple[Spent, Spent]


def compute_money(
    lines: Lines,
    holdouts: Sequence[Entry],
    prices: PriceList,
    reference: str,
    *,
    by: By,
    shadows: Iterable[Shadow] = (),
) -> SavedMoney:
    """Compute what was spent and saved.

    Args:
        lines: the usage of a window, whose hours are whole.
        holdouts: the entries of holdouts. Hours with missing holdouts are not measured.
        prices: of now.
        reference: the name of the reference checkpoint.
        by: what to group by.
        shadows: what the comparisons of the window took, of the reference and of the judge.
    """
    priced, label = _Prices(prices, reference), LABELS[by]
    sums = [(line.cell, Totals(holdout=usage.requests)) for line, usage in lines if line.outcome == "holdout"]
    complete = complete_from(sums, [cell_of(entry) for entry in holdouts])
    hours = {line.hour for line, _ in lines if line.hour >= complete}
    usable = [entry for entry in holdouts if cell_of(entry).hour in hours]
    label_lines: defaultdict[str, list[tuple[Line, Usage]]] = defaultdict(list)
    label_holdouts: defaultdict[str, list[Entry]] = defaultdict(list)
    for line, usage in lines:
        label_lines[label(line.cell)].append((line, usage))
    for entry in usable:
        label_holdouts[label(cell_of(entry))].append(entry)
    groups = {name: _money(label_lines[name], label_holdouts[name], priced, complete) for name in sorted(label_lines)}
    compared, judged = _shadows(shadows, priced)
    return SavedMoney(prices.currency, groups, _money(lines, usable, priced, complete), compared, judged)


def _money(lines: Lines, holdouts: Sequence[Entry], prices: _Prices, complete: int) -> Money:
    routed = [(line, usage) for line, usage in lines if line.holdout_fraction is not None]
    counted = [(line, usage) for line, usage in routed if line.outcome in ESTIMATED]
    estimated = [(line, usage) for line, usage in counted if prices.covers(line.choice, [line.checkpoint])]
    spent = sum(prices.cost_of(line.checkpoint, spent_of(usage)) for line, usage in estimated)
    # Nothing is expected for unreported requests: at a cheap checkpoint's price, even the longest thinking may cost
    # less than the reference was expected to, and then a failure would save something if nobody reported it.
    expected = sum(prices.expected(usage) for line, usage in estimated if line.outcome == "answered")
    total = sum(prices.cost_of(line.checkpoint, spent_of(usage)) for line, usage in lines)
    measured = _measured([one for one in lines if one[0].hour >= complete], holdouts, prices)
    unpriced = sum(tokens_of(usage) for line, usage in lines if prices.list.of(line.checkpoint) is None)
    return Money(
        spent / TRILLIONTHS,
        expected / TRILLIONTHS,
        (expected - spent) / TRILLIONTHS,
        total / TRILLIONTHS,
        measured,
        unpriced,
    )


def _measured(lines: Lines, holdouts: Sequence[Entry], prices: _Prices) -> MeasuredMoney | None:
    """The savings at each holdout fraction, added."""
    drawn: defaultdict[float, list[Entry]] = defaultdict(list)
    others: defaultdict[float, list[tuple[Line, Usage]]] = defaultdict(list)
    everybody: defaultdict[float, list[Usage]] = defaultdict(list)
    unpriced = Counter[float]()
    for entry in holdouts:
        fraction, served = entry.holdout_fraction, [part.checkpoint for part in entry.parts]
        if fraction is not None and had_draw(fraction) and prices.covers(entry.choice, served):
            drawn[fraction].append(entry)
    for line, usage in lines:
        if (fraction := line.holdout_fraction) is None or not had_draw(fraction):
            continue
        everybody[fraction].append(usage)
        if not prices.covers(line.choice, [line.checkpoint]):
            unpriced[fraction] += tokens_of(usage)
        elif line.outcome != "holdout":
            others[fraction].append((line, usage))
    intervals, requests = list[tuple[float, float, float]](), 0
    for fraction, sample in drawn.items():
        treated, every = sum_usage([usage for _, usage in others[fraction]]), sum_usage(everybody[fraction])
        if _is_uninformative(sample, every) or unpriced[fraction] > MAX_UNPRICED * tokens_of(every):
            continue
        x = np.array([entry.reference_tokens or 0.0 for entry in sample])
        y = np.array([prices.beyond(entry.parts) / TRILLIONTHS for entry in sample])
        spent = sum(prices.beyond(_parts(line, usage)) for line, usage in others[fraction]) / TRILLIONTHS
        totals = TreatmentTotals(treated.requests, treated.expected_reasoning / MILLI, spent)
        if (interval := measure(HoldoutSample(x, y), totals)) is not None:
            intervals.append(interval)
            requests += treated.requests
    return MeasuredMoney(*add_intervals(intervals), requests) if intervals else None


def _is_uninformative(sample: Sequence[Entry], every: Usage) -> bool:
    """Whether nothing can be measured, by the same rules as for tokens."""
    if count_informative((entry.budget, entry.reasoning_tokens) for entry in sample) < MIN_HOLDOUTS:
        return True
    assumed = sum(entry.assumed for entry in sample)
    return assumed > MAX_ASSUMED * len(sample) or every.assumed > MAX_ASSUMED * every.requests


def _parts(line: Line, usage: Usage) -> list[Part]:
    """A line's sums as the parts that they are of."""
    own = Spent(usage.prompt_tokens, usage.cached_tokens, usage.reasoning_tokens, usage.answer_tokens)
    repeated = Part(line.checkpoint, Spent(usage.repeated_prompt_tokens), repeats=True)
    return [Part(line.checkpoint, own), repeated]


def _shadows(shadows: Iterable[Shadow], prices: _Prices) -> tuple[float, float | None]:
    """What the reference cost for comparisons, and the judge."""
    compared = judged = 0
    judge = prices.list.judge or prices.list.default
    for shadow in shadows:
        compared += prices.cost_of(prices.reference, shadow[0])
        judged += 0 if judge is None else cost(judge, shadow[1])
    return compared / TRILLIONTHS, None if judge is None else judged / TRILLIONTHS
