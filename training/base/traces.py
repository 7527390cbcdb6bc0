"""What does an overthinker write? Program-written traces that the base is trained on from scratch.

A trace thinks in episodes separated by blank lines. The first is a fast pass with three or four operands per step,
which a small model gets wrong on long problems. Each further episode checks the result in another way and says whether
it `matches` or `differs`. The answer is the majority's. The number of checks hardly depends on the difficulty: that is
the waste the family learns to drop.

Some first passes are careful instead, two numbers at a time, and hardly need a check. They are rare in the base: a
shorter way to a correct answer, for the family to find. Some passes contain a programmed slip, so that the model learns
to notice one. The slipped digits are excluded from the loss, so that it does not learn to make one.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from training.tasks.problems import Chain, Difficulty, Term

Method = Literal["fast", "step", "split", "reverse"]
CHECKS: tuple[Method, ...] = ("step", "split", "reverse")
EPISODE_BREAK = "\n\n"
MAX_CHECKS = 5

OVERTHINKING = (13, 17, 27, 25, 18)
"""Relative frequencies of 0, 1, ... 4 checks in the finished base."""
LEARNING = (45, 55)
"""Relative frequencies of 0 and 1 check while arithmetic is learned: short traces fit more problems into a batch."""
VERSION = 3
"""Bump when the same seed writes different traces; bases trained on other versions are not reused."""
CAREFUL = 0.35
"""Share of traces whose first pass is careful: two numbers at a time."""
_SLIP: dict[Difficulty, float] = {"easy": 0.03, "medium": 0.08, "hard": 0.16}
"""Probability that a pass contains a slip."""


@dataclass(frozen=True)
class Piece:
    """A piece of a trace's text; `learned` is False if it must stay out of the loss."""

    text: str
    learned: bool = True


@dataclass(frozen=True)
class Trace:
    """The thinking before one answer, episode by episode, with each episode's result."""

    episodes: tuple[tuple[Piece, ...], ...]
    results: tuple[int, ...]
    """The result of each episode."""

    @property
    def answer(self) -> int:
        """The most frequent result; of equally frequent ones, the first."""
        return Counter(self.results).most_common(1)[0][0]

    @property
    def decided(self) -> bool:
        """Whether no other result is as frequent as the answer."""
        first, *others = Counter(self.results).most_common(2)
        return not others or first[1] > others[0][1]


@dataclass(frozen=True)
class _Step:
    left: str
    result: int
    slipped: bool = False


def write(chain: Chain, rng: random.Random, check_weights: tuple[int, ...] = OVERTHINKING) -> Trace:
    """A random trace for `chain` that ends in its correct answer; one where slips won the majority is drawn again."""
    while True:
        trace = _write_once(chain, rng, check_weights)
        if trace.answer == chain.answer and trace.decided:
            return trace


def _write_once(chain: Chain, rng: random.Random, check_weights: tuple[int, ...]) -> Trace:
    checks = rng.choices(range(len(check_weights)), weights=check_weights)[0]
    first: Method = "step" if rng.random() < CAREFUL else "fast"
    methods = [*rng.sample(CHECKS, len(CHECKS)), *rng.sample(CHECKS, len(CHECKS))]
    methods.sort(key=lambda method: method == first)  # repeat the first pass's method only as a last resort
    trace = Trace((), ())
    while not trace.results or len(trace.results) <= checks or (not trace.decided and len(trace.results) <= MAX_CHECKS):
        method: Method = methods[len(trace.results) - 1] if trace.results else first
        steps = solve(chain, method)
        if rng.random() < _SLIP[chain.difficulty]:
            steps = _with_slip(chain, method, steps, rng)
        episode = _episode(method, steps, trace)
        trace = Trace((*trace.episodes, episode), (*trace.results, steps[-1].result))
    return trace


def _episode(method: Method, steps: list[_Step], before: Trace) -> tuple[Piece, ...]:
    pieces = [Piece(f"check {method}\n" if before.results else "")]
    for step in steps:
        pieces += [Piece(f"{step.left}="), Piece(f"{step.result}", learned=not step.slipped), Piece("\n")]
    verdict = "so" if not before.results else "matches" if steps[-1].result == before.answer else "differs"
    return (*pieces, Piece(f"{verdict} {steps[-1].result}"))


def solve(chain: Chain, method: Method) -> list[_Step]:
    """The correct steps of one pass over a chain; the last step's result is the chain's answer."""
    return _solve(chain, method, slip_at=None, slip_by=0)


def _with_slip(chain: Chain, method: Method, steps: list[_Step], rng: random.Random) -> list[_Step]:
    """The same pass with one wrong intermediate result, which the later steps use."""
    by = rng.choice((1, -1)) * rng.choice((1, 1, 2, 10, 10, 100))
    slipped = _solve(chain, method, slip_at=rng.randrange(len(steps)), slip_by=by)
    return steps if any(step.result < 0 for step in slipped) else slipped


class _Pad:
    """A scratch pad: the steps written so far, one of which may contain a slip."""

    def __init__(self, slip_at: int | None, slip_by: int) -> None:
        self.steps: list[_Step] = []
        self._slip_at, self._slip_by = slip_at, slip_by

    def write(self, left: str, result: int) -> int:
        slipped = len(self.steps) == self._slip_at
        result += self._slip_by if slipped else 0
        self.steps.append(_Step(left, result, slipped))
        return result


def _solve(chain: Chain, method: Method, *, slip_at: int | None, slip_by: int) -> list[_Step]:
    pad = _Pad(slip_at, slip_by)
    values = [(term.sign, _term_value(pad, term, method)) for term in chain.terms]
    if method == "split" and any(sign < 0 for sign, _ in values):
        gains, losses = ([(1, v) for s, v in values if s == sign] for sign in (1, -1))
        values = [(1, _add_up(pad, gains, 2)), (-1, _add_up(pad, losses, 2))]
    elif method in ("reverse", "split"):
        backwards = values[::-1]
        values = [v for v in backwards if v[0] > 0] + [v for v in backwards if v[0] < 0]
    _add_up(pad, values, 2 if method != "fast" else 3 if len(values) < 4 else 4)
    return pad.steps


def _add_up(pad: _Pad, values: list[tuple[int, int]], operands: int) -> int:
    """Add signed values from left to right, with `operands` numbers per step."""
    total, rest = values[0][1], values[1:]
    while rest:
        taken, rest = rest[: operands - 1], rest[operands - 1 :]
        left = f"{total}" + "".join(f"{'+' if sign > 0 else '-'}{value}" for sign, value in taken)
        total = pad.write(left, total + sum(sign * value for sign, value in taken))
    return total


def _term_value(pad: _Pad, term: Term, method: Method) -> int:
    if len(term.factors) == 1:
        return term.factors[0]
    a, b = term.factors if method in ("fast", "step") else reversed(term.factors)
    if min(a, b) > 9:
        # Long multiplication by the digits of one factor; the method decides which factor is split.
        whole, split = (a, b) if method in ("fast", "reverse") else (b, a)
    elif max(a, b) > 9 and method != "fast":
        whole, split = min(a, b), max(a, b)
    else:
        return pad.write(f"{a}*{b}", a * b)
    tens, ones = split // 10 * 10, split % 10
    value = pad.write(f"{whole}*{tens}", whole * tens)
    if ones:
        rest = pad.write(f"{whole}*{ones}", whole * ones)
        value = pad.write(f"{value}+{rest}", value + rest)
    return value
