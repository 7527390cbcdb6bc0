"""What does an operation on numbers give? Exact fractions as long as possible, then many digits, and never for long."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import mpmath

Number = Any
"""A Fraction, or mpmath's real or complex number."""
DIGITS = (50, 400)
"""Numbers are compared with the first number of digits; where they seem equal, with the second."""
_MOST_BITS = 60_000
_contexts = threading.local()


class UnreadableError(ValueError):
    """The text is no formula, or its value is too large to compute in a moment."""


def context(digits: int) -> Any:
    """This thread's arithmetic of so many digits."""
    made: dict[int, Any] = _contexts.__dict__.setdefault("made", {})
    if digits not in made:
        made[digits] = mpmath.mp.clone()
        made[digits].dps = digits
    return made[digits]


class Arithmetic:
    """Operations in one precision. Each takes a bounded time, or raises `UnreadableError`."""

    def __init__(self, digits: int) -> None:
        self.mp = context(digits)
        self._named: dict[str, Callable[[Any], Any]] = {
            name: getattr(self.mp, ours or name)
            for name, ours in (
                *((name, "") for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "exp")),
                *((f"arc{name}", f"a{name}") for name in ("sin", "cos", "tan")),
                *((f"a{name}", "") for name in ("sin", "cos", "tan")),
                ("ln", "log"),
                ("log", "log10"),
            )
        }

    @property
    def functions(self) -> frozenset[str]:
        """The names that `apply` knows."""
        return frozenset(self._named)

    def rounded(self, value: Number) -> Any:
        """The value as mpmath's number."""
        return self.mp.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value

    def add(self, left: Number, right: Number) -> Number:
        """The sum."""
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            return _bounded(left + right)
        return self.rounded(left) + self.rounded(right)

    def multiply(self, left: Number, right: Number) -> Number:
        """The product."""
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            return _bounded(left * right)
        return self.rounded(left) * self.rounded(right)

    def divide(self, above: Number, below: Number) -> Number:
        """The quotient."""
        if below == 0:
            raise UnreadableError("division by 0")
        if isinstance(above, Fraction) and isinstance(below, Fraction):
            return _bounded(above / below)
        return self.rounded(above) / self.rounded(below)

    def power(self, base: Number, exponent: Number) -> Number:
        """The principal power; exact for a fraction to a whole number."""
        if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if (base == 0 and exponent <= 0) or abs(exponent.numerator) * bits > _MOST_BITS:
                raise UnreadableError("a power that is undefined or too large")
            return base**exponent.numerator
        if base == 0:
            if isinstance(exponent, Fraction) and exponent > 0:
                return Fraction(0)
            raise UnreadableError("a power of 0")
        return self.mp.power(self._modest(base, 4000), self._modest(exponent, 20))

    def root(self, value: Number, degree: Number) -> Number:
        """The degree-th root, real where there is a real one."""
        if not isinstance(degree, Fraction) or degree.denominator != 1 or not 1 <= degree <= 1000:
            raise UnreadableError("a root of this degree")
        if isinstance(value, Fraction) and (exact := _exact_root(value, int(degree))) is not None:
            return exact
        value = self._modest(value, 4 * _MOST_BITS)
        if degree % 2 and not isinstance(value, self.mp.mpc) and value < 0:
            return -self.mp.root(-value, int(degree))
        return self.mp.root(value, int(degree))

    def factorial(self, value: Number) -> Number:
        """n! of a whole number."""
        if not isinstance(value, Fraction) or value.denominator != 1 or not 0 <= value <= 3000:
            raise UnreadableError("a factorial of this")
        return Fraction(math.factorial(int(value)))

    def binomial(self, above: Number, below: Number) -> Number:
        """n choose k of whole numbers."""
        whole = all(isinstance(v, Fraction) and v.denominator == 1 and 0 <= v <= 3000 for v in (above, below))
        if not whole:
            raise UnreadableError("a binomial of these")
        return Fraction(math.comb(int(above), int(below)))

    def floor(self, value: Number, *, up: bool = False) -> Number:
        """The next whole number below, or above."""
        if not isinstance(value, Fraction):
            value = self._modest(value, 1000)
            if isinstance(value, self.mp.mpc):
                raise UnreadableError("a floor of a complex number")
            return Fraction(int(self.mp.ceil(value) if up else self.mp.floor(value)))
        return Fraction(math.ceil(value) if up else math.floor(value))

    def apply(self, name: str, value: Number) -> Number:
        """A function of one number by its name in LaTeX."""
        if name in ("exp", "sinh", "cosh", "tanh"):
            value = self._modest(value, 20)
        try:
            return self._named[name](self._modest(value, 4 * _MOST_BITS if name in ("ln", "log") else 200))
        except (ValueError, ZeroDivisionError) as error:
            raise UnreadableError(f"{name} of this") from error

    def _modest(self, value: Number, magnitude: int) -> Any:
        """The value rounded, unless its binary exponent is above `magnitude`."""
        rounded = self.rounded(value)
        if self.mp.isnan(rounded) or self.mp.isinf(rounded) or (rounded != 0 and self.mp.mag(rounded) > magnitude):
            raise UnreadableError("a number too large for this")
        return rounded


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > 4 * _MOST_BITS:
        raise UnreadableError("a number with too many digits")
    return value


def _exact_root(value: Fraction, degree: int) -> Fraction | None:
    """The root of a fraction, if it is one. Only of numbers of moderate size, since others are compared by digits."""
    if degree != 2 or value < 0:
        return None
    above, below = math.isqrt(value.numerator), math.isqrt(value.denominator)
    return Fraction(above, below) if above**2 == value.numerator and below**2 == value.denominator else None
