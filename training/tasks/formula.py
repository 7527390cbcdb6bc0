"""Which number is this formula? LaTeX or plain mathematics, read and computed in one go.

It knows what answers are made of: decimals, fractions, mixed numbers, roots, powers, variables, pi, e, i, the usual
functions, factorials and binomials. Everything else is unreadable. Nothing is simplified, so no text
takes long: two formulas are compared by their values (`training/tasks/equality.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from training.tasks.numbers import Arithmetic, Number, UnreadableError

_NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,5}(?![\d.])(?!\s*[A-Za-z\\]))?")
_MIXED = re.compile(
    r"(?<![\w.^_}/])(\d+)\s*(?:\\frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}|\s(\d+)\s*/\s*(\d+)(?![\w.]))"
)
_NAME = re.compile(r"\\[A-Za-z]+|\\.")
_LETTERS = re.compile(r"[A-Za-z]+")
_GREEK = (
    " alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho "
    "sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell "
)
"""The letters that are variables, between spaces."""
_DEEPEST = 40
Variables = Callable[[str], Number]


def compute(formula: str, arithmetic: Arithmetic, variables: Variables) -> Number:
    """The value of a formula in `training.tasks.notation`'s plain notation.

    Raises:
        UnreadableError: it is no formula, or too large.
    """
    reader = _Reader(_mixed(_braced(formula)), arithmetic, variables)
    try:
        value = reader.sum()
        reader.skip()
    except (OverflowError, ZeroDivisionError, ValueError, TypeError) as error:
        raise UnreadableError(str(error)) from error
    if reader.at < len(reader.text):
        raise UnreadableError(f"{reader.text[reader.at :]!r} is left over")
    return value


def _braced(formula: str) -> str:
    """The formula with each argument of `\\frac` in braces; `\\frac12` and `\\frac 1{2}` are common."""
    one = r"\s*(\d|[A-Za-z]|\\[A-Za-z]+)"
    formula = re.sub(rf"\\frac(?=\s*[\dA-Za-z\\]){one}", r"\\frac{\1}", formula)
    return re.sub(rf"(\\frac\s*\{{(?:[^{{}}]|\{{[^{{}}]*\}})*\}}){one}", r"\1{\2}", formula)


def _mixed(formula: str) -> str:
    def added(match: re.Match[str]) -> str:
        above, below = match[2] or match[4], match[3] or match[5]
        if not 0 < int(above) < int(below):
            return match[0]
        return f"({match[1]}+{above}/{below})"

    return _MIXED.sub(added, formula)


class _Reader:
    """Recursive descent over the text; each method reads one construct and returns its value."""

    def __init__(self, text: str, arithmetic: Arithmetic, variables: Variables) -> None:
        self.text, self.at, self._depth, self._bars = text, 0, 0, 0
        self._do, self._variables = arithmetic, variables

    def skip(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def take(self, *symbols: str) -> str:
        """The first of the symbols that comes next, taken; '' if none does."""
        self.skip()
        for symbol in symbols:
            end = self.at + len(symbol)
            is_word = symbol.startswith("\\") and symbol[-1].isalpha()
            if self.text.startswith(symbol, self.at) and not (is_word and self.text[end : end + 1].isalpha()):
                self.at = end
                return symbol
        return ""

    def need(self, symbol: str) -> None:
        if not self.take(symbol):
            raise UnreadableError(f"{symbol} is missing")

    def sum(self) -> Number:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise UnreadableError("nested too deeply")
        total = self.product()
        while sign := self.take("+", "-"):
            term = self.product()
            total = self._do.add(total, term if sign == "+" else self._do.multiply(Fraction(-1), term))
        self._depth -= 1
        return total

    def product(self) -> Number:
        if sign := self.take("+", "-"):
            value = self.product()
            return value if sign == "+" else self._do.multiply(Fraction(-1), value)
        total = self.postfixed()
        while True:
            operator = self.take("\\times", "\\cdot", "\\ast", "\\div", "*", "/")
            if operator in ("/", "\\div"):
                total = self._do.divide(total, self.signed())
            elif operator:
                total = self._do.multiply(total, self.signed())
            elif self._another_factor():
                total = self._do.multiply(total, self.postfixed())
            else:
                return total

    def _another_factor(self) -> bool:
        self.skip()
        if self.at >= len(self.text) or self.text[self.at] in ")]}+-*/=<>,;:!^_%&|":
            return self.text[self.at : self.at + 1] == "|" and not self._bars
        if re.match(r"\\(?:rfloor|rceil|\}|\\)", self.text[self.at :]):
            return False
        if _NUMBER.match(self.text, self.at) and re.search(r"[\d.]\s*$", self.text[: self.at]):
            raise UnreadableError("a number follows a number")
        return True

    def signed(self) -> Number:
        if sign := self.take("+", "-"):
            value = self.signed()
            return value if sign == "+" else self._do.multiply(Fraction(-1), value)
        return self.postfixed()

    def postfixed(self) -> Number:
        """An atom with its powers and factorials."""
        value = self.atom()
        while True:
            if self.take("!"):
                value = self._do.factorial(value)
            elif self.text.startswith("**", self.at) or self.text.startswith("^", self.at):
                self.at += 2 if self.text.startswith("**", self.at) else 1
                value = self._do.power(value, self.argument(signed=True))
            else:
                return value

    def argument(self, *, signed: bool = False) -> Number:
        """What a command takes: a group in braces, or the number, letter or command that follows."""
        self.skip()
        if self.take("{"):
            value = self.sum()
            self.need("}")
            return value
        if signed and (sign := self.take("+", "-")):
            value = self.argument()
            return value if sign == "+" else self._do.multiply(Fraction(-1), value)
        return self.atom()

    def atom(self) -> Number:
        self.skip()
        if number := _NUMBER.match(self.text, self.at):
            self.at = number.end()
            return _literal(number[0])
        for opening, closing in (("(", ")"), ("[", "]"), ("{", "}")):
            if self.take(opening):
                value = self.sum()
                self.need(closing)
                return value
        if self.text.startswith("|", self.at):
            return self._absolute()
        if name := _NAME.match(self.text, self.at):
            self.at = name.end()
            return self._command(name[0][1:])
        return self._letter()

    def _absolute(self) -> Number:
        self.at, self._bars = self.at + 1, self._bars + 1
        value = self.sum()
        self.need("|")
        self._bars -= 1
        return abs(value)

    def _command(self, name: str) -> Number:
        if name == "frac":
            above = self.argument()
            return self._do.divide(above, self.argument())
        if name == "sqrt":
            degree: Number = Fraction(2)
            if self.take("["):
                degree = self.sum()
                self.need("]")
            return self._do.root(self.argument(), degree)
        if name == "binom":
            above = self.argument()
            return self._do.binomial(above, self.argument())
        if name in ("lfloor", "lceil"):
            value = self.sum()
            self.need(f"\\r{name[1:]}")
            return self._do.floor(value, up=name == "lceil")
        return self._symbol(name)

    def _symbol(self, name: str) -> Number:
        if name == "pi":
            return +self._do.mp.pi
        if f" {name} " in _GREEK:
            return self._variables(name + self._subscript())
        return self._function(name)

    def _function(self, name: str) -> Number:
        if name not in self._do.functions:
            raise UnreadableError(f"{name} is unknown")
        base: Number | None = None
        exponent: Number | None = None
        if name == "log" and self.take("_"):
            base = self.argument()
        if self.take("^"):
            exponent = self.argument(signed=True)
            if exponent == -1:
                raise UnreadableError("an inverse function")
        self.skip()
        if self.text.startswith(("(", "{", "["), self.at):
            value = self.atom()
        else:
            value = self.postfixed()
            while self._another_factor() and not re.match(
                r"\\(?:sin|cos|tan|cot|sec|csc|log|ln|cdot|times)", self.rest
            ):
                value = self._do.multiply(value, self.postfixed())
        result = (
            self._do.apply(name, value)
            if base is None
            else self._do.divide(self._do.apply("ln", value), self._do.apply("ln", base))
        )
        return result if exponent is None else self._do.power(result, exponent)

    @property
    def rest(self) -> str:
        """What has not been read."""
        return self.text[self.at :]

    def _letter(self) -> Number:
        letters = _LETTERS.match(self.text, self.at)
        if not letters:
            raise UnreadableError("no formula here")
        if len(letters[0]) > 1:
            name = next((n for n in sorted(self._do.functions, key=len, reverse=True) if letters[0] == n), None)
            if name:
                self.at = letters.end()
                return self._function(name)
            if len(letters[0]) > 3:
                raise UnreadableError(f"{letters[0]} is a word")
        self.at += 1
        name = letters[0][0]
        if name == "i":
            return self._do.mp.mpc(0, 1)
        if name == "e":
            return +self._do.mp.e
        return self._variables(name + self._subscript())

    def _subscript(self) -> str:
        match = re.compile(r"_(?:\{([^{}]*)\}|(\w))").match(self.text, self.at)
        if not match:
            return ""
        self.at = match.end()
        return f"_{match[1] or match[2]}"


def _literal(text: str) -> Fraction:
    if len(text) > 400:
        raise UnreadableError("a number with too many digits")
    mantissa, _, exponent = text.lower().partition("e")
    if abs(int(exponent or 0)) > 5000:
        raise UnreadableError("a number too large")
    return Fraction(mantissa.rstrip(".")) * Fraction(10) ** int(exponent or 0)
