"""What would the profile be if it were fitted on what happened since? Candidates from the ledger's outcomes; pure.

A request of the ledger was answered by one checkpoint, so there is no table of outcomes of all checkpoints. What can be
learned of one answer each is fitted anew:

- `recalibrated`: a_c and b_c of P(correct) = sigmoid(a_c f(x) + b_c), with the old ones as the prior once what changed
  for all choices alike is applied to them, and the quantiles of the residuals of reasoning tokens; f stays.
- `forest`: f itself, too, as a forest over the counts.

Escalations get new weights in the same way. Vocabulary, range, and the forests of tokens and of budget-forced answers
stay, so the counts that were recorded keep their meaning. Difficulties are ranked among the requests of now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold

from models.features import FEATURES, logs
from models.forest import Forest, Forests
from models.plain import Plain
from models.prediction import LEVELS, ChoicePrediction, Escalation, Forecast
from models.stored import StoredProfile
from training.profile.boosting import SHARE, boost
from training.profile.logistic import fit_logistic

Array = NDArray[np.float64]

MIN_RESIDUALS = 50
"""With fewer lengths of a checkpoint, the quantiles of its residuals stay."""
OWN_PRECISION = 25.0
"""Of the prior that a choice changed as all did: they differ by some 0.2 in logits. If each were fitted by itself, the
rule, which chooses the best of many, would mostly find those that were lucky (decision 69)."""
FOLDS = 5
CHOOSING_SHARE = 2 / 3
"""Of the scored rows, on which the candidates are fitted that are compared to choose one."""


@dataclass(frozen=True)
class Row:
    """One request of the ledger."""

    time: float
    checkpoint: str
    """The one whose answer the caller got."""
    served: str
    """The choice that served: the checkpoint, or the escalation that it is part of."""
    counts: tuple[int, ...]
    easiness: float
    """What the reader added to the forest's value when the request came."""
    limit: int | None
    """The budget in reasoning tokens."""
    tokens: int
    """Reasoning tokens of its only answer."""
    score: float | None
    """In [0, 1]; None if it was not scored."""
    forecast: Forecast
    """What the profile of then expected of the choice that served."""

    @property
    def is_cut(self) -> bool:
        """Whether the budget ended the thinking. Then nothing says what the prompt would have taken without it.

        An answer that the context's length ended, or that never came, does say that: it is wrong, and as long as it is.
        Without those rows the fit would see survivors only.
        """
        return self.limit is not None and self.tokens >= self.limit


class Reading:
    """A profile that reads what the ledger has of prompts, instead of prompts."""

    def __init__(self, stored: StoredProfile, *, reads: bool = True) -> None:
        """`reads` says whether its reader is the one whose easiness was recorded; otherwise it has none."""
        self.stored, self.reads = stored, reads
        escalations = {
            name: Escalation(first=one.first, second=one.second, surprisal=one.surprisal)
            for name, one in stored.escalations.items()
        }
        self._plain = Plain(stored, escalations)

    def choices(self, row: Row) -> Mapping[str, ChoicePrediction]:
        """What each choice is expected to do with the request's prompt."""
        return self._plain.choices(logs(row.counts), row.easiness if self.reads else 0.0)


def candidates(stored: StoredProfile, rows: Sequence[Row], seed: int) -> dict[str, Reading]:
    """Profiles fitted on the rows, by name. `seed` is for folds and trees."""
    scored = [row for row in rows if row.score is not None and not row.is_cut]
    inputs = np.array([logs(row.counts) for row in scored])
    old = _values(stored.correct, inputs)
    weight = 1.0 if stored.reader is None else stored.reader.forest
    easiness = np.array([row.easiness for row in scored]) + weight * old
    found = {"recalibrated": with_scales(stored, scored, easiness)}
    score = np.array([row.score for row in scored], dtype=float)
    folds = list(KFold(FOLDS, shuffle=True, random_state=seed).split(inputs))
    forest, out_of_fold = boost(SHARE, inputs, score, folds, seed)
    anew = stored.model_copy(update={"correct": Forest(**forest), "reader": None, "encoder": None})
    found["forest"] = with_scales(anew, scored, out_of_fold)
    readings = {
        name: Reading(_with_residuals(one, rows), reads=name != "forest" and stored.reader is not None)
        for name, one in found.items()
    }
    return {name: _ranked(reading, rows) for name, reading in readings.items()}


def _values(forest: Forest, inputs: Array) -> Array:
    """A forest's value at every row, (rows,)."""
    read = Forests([forest], len(FEATURES), 1)
    return np.array([float(read(x)[0, 0]) for x in inputs])


def with_scales(stored: StoredProfile, rows: Sequence[Row], easiness: Array) -> StoredProfile:
    """The profile with scales of checkpoints and escalations from scored rows.

    What changed for all of them is fitted first, on all rows: logit P = slope (a_c f + b_c) + shift. It holds for those
    with few rows, too, or none. Otherwise they would keep the success that they had before, and be chosen for it. Each
    then has a shift of its own, of which its rows decide.
    """
    score = np.array([row.score for row in rows], dtype=float)
    served = np.array([row.served for row in rows])
    before = stored.scales | {name: one.scale for name, one in stored.escalations.items()}
    a_b = np.array([before[row.served] for row in rows])
    logits = np.column_stack([a_b[:, 0] * easiness + a_b[:, 1], np.ones(len(rows))])
    slope, shift = fit_logistic(logits, score, np.array([1.0, 0.0]), start=np.zeros(2)).tolist()

    def scale(name: str, before: tuple[float, float]) -> tuple[float, float]:
        own, common = served == name, (slope * before[0], slope * before[1] + shift)
        ones, logits = np.ones((int(own.sum()), 1)), common[0] * easiness[own] + common[1]
        (more,) = fit_logistic(ones, score[own], np.zeros(1), logits, precision=OWN_PRECISION).tolist()
        return common[0], common[1] + more

    scales = {name: scale(name, before) for name, before in stored.scales.items()}
    escalations = {
        name: one.model_copy(update={"scale": scale(name, one.scale), "unsure": _unsure(stored, name, rows, easiness)})
        for name, one in stored.escalations.items()
    }
    return stored.model_copy(update={"scales": scales, "escalations": escalations})


def _unsure(stored: StoredProfile, name: str, rows: Sequence[Row], easiness: Array) -> tuple[float, float, float]:
    """The weights of P(unsure): how often the first checkpoint's answer was given up."""
    one = stored.escalations[name]
    own = [i for i, row in enumerate(rows) if row.served == name]
    if not own:
        return one.unsure
    forests = Forests([stored.tokens], len(FEATURES), len(stored.residuals))
    position = list(stored.residuals).index(one.first)
    log_tokens = [float(forests(logs(rows[i].counts))[position, 0]) for i in own]
    x = np.column_stack([np.ones(len(own)), easiness[own], log_tokens])
    escalated = np.array([float(rows[i].checkpoint == one.second) for i in own])
    constant, weight, slope = fit_logistic(x, escalated, np.array(one.unsure), start=np.zeros(3)).tolist()
    return constant, weight, slope


def _with_residuals(stored: StoredProfile, rows: Sequence[Row]) -> StoredProfile:
    """The profile with quantiles of residuals from rows without a budget, those that ran away included."""
    forests = Forests([stored.tokens, stored.spread], len(FEATURES), len(stored.residuals))
    residuals = dict(stored.residuals)
    for position, name in enumerate(stored.residuals):
        own = [row for row in rows if row.served == row.checkpoint == name and row.limit is None]
        if len(own) < MIN_RESIDUALS:
            continue
        read = np.array([forests(logs(row.counts))[position] for row in own])
        z = (np.log1p([row.tokens for row in own]) - read[:, 0]) / np.exp(np.minimum(read[:, 1], 10.0))
        residuals[name] = np.quantile(z, LEVELS).tolist()
    return stored.model_copy(update={"residuals": residuals})


def _ranked(reading: Reading, rows: Sequence[Row]) -> Reading:
    """The profile with difficulties among these rows, and without figures of the fit before."""
    failure = [
        1 - float(np.mean([one.p_correct for one in reading.choices(row).values() if one.escalation is None]))
        for row in rows
    ]
    stored = reading.stored.model_copy(
        update={
            "difficulties": np.quantile(failure, np.linspace(0, 1, 101)).tolist(),
            "report": {},
            "reliability": {},
            "floors": [],
        }
    )
    return Reading(stored, reads=reading.reads)


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval (normal, over requests)."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """A candidate beside the profile of now, on requests that neither was fitted on."""

    scored: int
    brier: float
    brier_before: float
    improvement: Interval
    """Of the Brier score: positive if the candidate is better. Request by request."""
    tokens: float
    """Expected reasoning and answer tokens of what the candidate would choose, as the candidate expects them."""
    tokens_change: Interval
    """Those minus the tokens of what is chosen now, both as the candidate expects them."""
    success_change: Interval
    """The same of the expected success."""

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or `not shown`."""
        if self.improvement.low > 0:
            return "better"
        return "worse" if self.improvement.high < 0 else "not shown"


def compare(
    before: Reading, after: Reading, rows: Sequence[Row], choose: Callable[[Mapping[str, Forecast]], str]
) -> Comparison:
    """Compare on held-out rows. `choose` is the routing rule at the operator's tolerance."""
    errors: list[tuple[float, float]] = []
    tokens: list[tuple[float, float]] = []
    success: list[tuple[float, float]] = []
    for row in rows:
        choices = [reading.choices(row) for reading in (before, after)]
        if row.score is not None:
            predicted = [one[row.served].p_correct_within(row.limit) for one in choices]
            errors.append((predicted[0] - row.score, predicted[1] - row.score))
        forecasts = [_forecasts(one, row.limit) for one in choices]
        old, new = (forecasts[1][choose(one)] for one in forecasts)
        tokens.append((old.cost, new.cost))
        success.append((old.success, new.success))
    squares = np.array(errors) ** 2
    cost = np.array(tokens)
    return Comparison(
        scored=len(errors),
        brier=float(squares[:, 1].mean()),
        brier_before=float(squares[:, 0].mean()),
        improvement=_interval(squares[:, 0] - squares[:, 1]),
        tokens=float(cost[:, 1].mean()),
        tokens_change=_interval(cost[:, 1] - cost[:, 0]),
        success_change=_interval(np.diff(np.array(success), axis=1)[:, 0]),
    )


def _forecasts(choices: Mapping[str, ChoicePrediction], limit: int | None) -> dict[str, Forecast]:
    return {
        name: Forecast(
            one.p_correct_within(limit), one.expected_tokens(limit), one.expected_tokens(), one.answer_tokens
        )
        for name, one in choices.items()
    }


def _interval(values: Array) -> Interval:
    mean, half = float(values.mean()), 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5
    return Interval(mean, mean - half, mean + half)


def fitted_on(rows: Sequence[Row]) -> int:
    """How many of the rows say whether an answer is right: those with a score whose thinking no budget ended."""
    return sum(row.score is not None and not row.is_cut for row in rows)


def earlier(rows: Sequence[Row], share: float) -> int:
    """How many of the rows, in the order of time, come before the later part of those with a score.

    Scores may have begun, or ended, at any time: a share of all rows could have all of them, or none.
    """
    scored = [position for position, row in enumerate(rows) if row.score is not None]
    return scored[int(len(scored) * share)] if scored else 0


def cross_validated(stored: StoredProfile, rows: Sequence[Row], seed: int) -> dict[str, float]:
    """The Brier score of each candidate on the later third of the scored rows, for choosing one.

    They are fitted on those before.
    """
    cut = earlier(rows, CHOOSING_SHARE)
    later = [row for row in rows[cut:] if row.score is not None]

    def brier(reading: Reading) -> float:
        predicted = [reading.choices(row)[row.served].p_correct_within(row.limit) for row in later]
        return float(np.mean((np.array(predicted) - np.array([row.score for row in later], dtype=float)) ** 2))

    return {name: brier(one) for name, one in candidates(stored, rows[:cut], seed).items()}
