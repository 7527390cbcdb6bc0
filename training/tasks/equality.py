"""Are two formulas equal? Exactly where both are fractions, else to 400 digits, at several values of variables."""

from __future__ import annotations

import random
from fractions import Fraction

from training.tasks.formula import compute
from training.tasks.numbers import DIGITS, Arithmetic, Number, UnreadableError

_POINTS = 6
"""Values of the variables at which formulas are compared: half are positive, one is negative, the rest are mixed."""


def variables(formula: str) -> frozenset[str] | None:
    """The names of a formula's variables; None if it is no formula."""
    names = set[str]()

    def note(name: str) -> Number:
        names.add(name)
        return _at(name, 0)

    try:
        compute(formula, Arithmetic(DIGITS[0]), note)
    except UnreadableError:
        return None
    return frozenset(names)


def same_formula(left: str, right: str) -> bool:
    """Whether two formulas have the same value, whatever their variables are; False if one is no formula."""
    names, others = variables(left), variables(right)
    if names is None or others is None:
        return False
    points = range(_POINTS) if names | others else range(1)
    is_complex = any(_is_complex(formula) for formula in (left, right))
    compared = 0
    for point in points:
        try:
            verdict = _same_at(left, right, point, skip_complex=bool(names | others) and not is_complex)
        except UnreadableError:
            continue
        if verdict is False:
            return False
        compared += verdict is True
    return compared >= min(2, len(points))


def same_ratio(left: str, right: str, *, positive: bool) -> bool:
    """Whether left = c right for a constant c that is not 0, and positive if so wanted: two equations of one curve."""
    arithmetic = Arithmetic(DIGITS[0])
    ratios: list[Number] = []
    for point in range(_POINTS):
        try:
            values = [_value(formula, arithmetic, point) for formula in (left, right)]
            ratios.append(arithmetic.divide(*values))
        except UnreadableError:
            continue
    if len(ratios) < 3 or ratios[0] == 0 or isinstance(ratios[0], arithmetic.mp.mpc):
        return False
    if positive and ratios[0] < 0:
        return False
    return all(_close(arithmetic, ratios[0], ratio) for ratio in ratios[1:])


def _same_at(left: str, right: str, point: int, *, skip_complex: bool) -> bool | None:
    """Whether two formulas are equal at one point; None where neither is real, if those points do not count."""
    differences: list[Number] = []
    for digits in DIGITS:
        arithmetic = Arithmetic(digits)
        values = [_value(formula, arithmetic, point) for formula in (left, right)]
        if all(isinstance(value, Fraction) for value in values):
            return values[0] == values[1]
        if skip_complex and all(isinstance(value, arithmetic.mp.mpc) and value.imag != 0 for value in values):
            return None
        one, other = (arithmetic.rounded(value) for value in values)
        differences.append(abs(one - other))
        if _close(arithmetic, one, other):
            continue
        # Both may be 0 written in roots: then what is computed shrinks with every digit more.
        if digits == DIGITS[0] and differences[0] < arithmetic.mp.mpf(10) ** -35:
            continue
        if digits == DIGITS[1] and differences[1] < arithmetic.mp.mpf(10) ** -300 * (differences[0] or 1):
            continue
        return False
    return True


def _close(arithmetic: Arithmetic, one: Number, other: Number) -> bool:
    one, other = arithmetic.rounded(one), arithmetic.rounded(other)
    return abs(one - other) <= arithmetic.mp.mpf(10) ** (15 - arithmetic.mp.dps) * max(abs(one), abs(other))


def _is_complex(formula: str) -> bool:
    def real(name: str) -> Number:
        return Fraction(random.Random(name).randint(2, 50), 7)

    try:
        value = compute(formula, Arithmetic(DIGITS[0]), real)
    except UnreadableError:
        return False
    return not isinstance(value, Fraction) and bool(getattr(value, "imag", 0)) and "i" in formula


def _value(formula: str, arithmetic: Arithmetic, point: int) -> Number:
    return compute(formula, arithmetic, lambda name: _at(name, point))


def _at(name: str, point: int) -> Fraction:
    """A variable's value: the same for the same name and point, near 1 so that powers stay small."""
    rng = random.Random(f"{name}/{point}")
    size = Fraction(rng.randint(40, 260), 131)
    is_negative = point == _POINTS // 2 or (point > _POINTS // 2 and rng.random() < 0.5)
    return -size if is_negative else size
