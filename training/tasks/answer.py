"""What is this answer? A number with a unit, a choice, a time, a list, an interval, an equation, or words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

from training.tasks.compare import equal
from training.tasks.equality import same_formula, variables
from training.tasks.kinds import Answer, Choice, InBase, Named, Quantity, Relation, Rounded, Several, Time, Words
from training.tasks.notation import plain
from training.tasks.quantities import CURRENCIES, Unit, in_digits, unit_of

LONGEST = 300
"""Answers with more characters are not compared."""
_NO_UNIT = Unit("")


_CHOICE = re.compile(r"\(?\s*([A-Z])\s*[).:]?")
_TIME = re.compile(
    r"(\d{1,2})(?:(:\d{2})(:\d{2})?)?(?:\s*(?:o'clock)?\s*(a\.?\s?m\.?|p\.?\s?m\.?|o'clock)?)"
    r"(?:\s+in the (morning|afternoon|evening))?",
    re.IGNORECASE,
)
_RATIO = re.compile(r"\d+(?:\.\d+)?(?:\s*:\s*\d+(?:\.\d+)?)+|\d+\s+to\s+\d+")
_BASE = re.compile(r"(-?[0-9A-F]+)\s*(?:_\s*\{?\s*(\d{1,2})\s*\}?|\s+base\s+(\d{1,2}))")
_MATRIX = re.compile(r"\\begin\s*\{[pbvB]?(?:small)?matrix\}(.*)\\end\s*\{[pbvB]?(?:small)?matrix\}", re.DOTALL)
_NAME = re.compile(
    r"(?:\\angle\s*)?(?:[A-Za-z]{1,2}|[A-Z]{3}|\\[A-Za-z]+)(?:_(?:\{\w+\}|\w))?(?:\s*\(\s*[A-Za-z]\s*\))?(?:\^\{-1\}\s*\(\s*[a-z]\s*\))?"
)
_SIGNS = re.compile(
    r"\\le(?![A-Za-z])|\\ge(?![A-Za-z])|\\ne(?![A-Za-z])|\\approx(?![A-Za-z])|\\in(?![A-Za-z])|!=|[=<>]"
)
_BRACKETS = re.compile(r"([(\[]|\\\{|\\langle)(.*)([)\]]|\\\}|\\rangle)", re.DOTALL)
_SEPARATORS = re.compile(r"\s*(?:[,;]\s*(?:(?:and|or)\s)?|\s(?:and|or)(?=\s))\s*")
_UNIT = re.compile(r"[A-Za-z][A-Za-z'./^{}0-9\s,-]*")
_CURRENCY = re.compile(rf"(-?)\s*(?:US)?([{CURRENCIES}])\s*(-?.*)", re.DOTALL)
_ENDS_A_NUMBER = re.compile(r"(?:[\d)}\]!|]|\\pi|\\infty)(\s*)(?=[A-Za-z])")
_PROSE = re.compile(r"[^\W\d_]{2,}")


def same_answer(stated: str, gold: str) -> bool:
    """Whether two answers are equal, in whatever notation."""
    if max(len(stated), len(gold)) > LONGEST:
        return False
    left, right = plain(stated), plain(gold)
    if not left or not right:
        return False
    if left == right:
        return True
    return equal(read(left), read(right))


def read(text: str) -> Answer:
    """What an answer in plain notation is; `Words` if it is nothing else."""
    for reader in (
        _choice,
        _time,
        _in_base,
        _ratio,
        _matrix,
        _union,
        _bracketed,
        _list,
        _relation,
        _plus_minus,
        _quantity,
    ):
        if (answer := reader(text)) is not None:
            return answer
    return Words(_words(text))


def _choice(text: str) -> Choice | None:
    match = _CHOICE.fullmatch(text)
    return Choice(match[1]) if match else None


def _time(text: str) -> Time | None:
    match = _TIME.fullmatch(text)
    if not match or not (match[2] or match[4] or match[5]):
        return None
    minutes = tuple(int(part[1:]) for part in (match[2], match[3]) if part)
    half = re.sub(r"[^apm]", "", (match[4] or "").lower().replace("o'clock", ""))
    if match[5]:
        half = "am" if match[5].lower() == "morning" else "pm"
    if int(match[1]) > 24 or any(part > 59 for part in minutes):
        return None
    return Time(int(match[1]), minutes or (0,), half)


def _in_base(text: str) -> InBase | None:
    match = _BASE.fullmatch(text)
    return InBase(match[1].lstrip("0") or "0", int(match[2] or match[3])) if match else None


def _ratio(text: str) -> Several | None:
    if not _RATIO.fullmatch(text):
        return None
    first, *others = re.split(r"\s*:\s*|\s+to\s+", text)
    if Fraction(first) == 0:
        return None
    return Several("ratio", tuple(Quantity(f"({other})/({first})") for other in others))


def _matrix(text: str) -> Several | None:
    match = _MATRIX.fullmatch(text)
    if not match:
        return None
    rows = [row.split("&") for row in re.split(r"\\\\(?:\[[^\]]*\])?", match[1]) if row.strip()]
    if not rows or len({len(row) for row in rows}) != 1:
        return None
    width = len(rows[0])
    return Several(f"matrix {width}", tuple(read(cell.strip()) for row in rows for cell in row))


def _union(text: str) -> Several | None:
    parts = _split(text, re.compile(r"\\cup(?![A-Za-z])"))
    return Several("union", tuple(read(part) for part in parts)) if len(parts) > 1 and all(parts) else None


def _bracketed(text: str) -> Answer | None:
    match = _BRACKETS.fullmatch(text)
    if not match or not _is_one_group(text, len(match[1]), len(match[3])):
        return None
    inside, brackets = match[2].strip(), match[1] + match[3]
    items = _split(inside, re.compile(r"[,;]"))
    if not all(items):
        return None
    if brackets == "\\{\\}":
        return Several(brackets, tuple(item for part in items for item in _expanded(part)))
    if len(items) > 1:
        return Several(brackets, tuple(read(item) for item in items))
    return read(inside) if brackets == "()" else None


def _expanded(text: str) -> tuple[Answer, ...]:
    answer = read(text)
    return answer.items if isinstance(answer, Several) and answer.how == "list" else (answer,)


def _list(text: str) -> Several | None:
    parts = _split(in_digits(text), _SEPARATORS)
    if len(parts) < 2 or not all(parts):
        return None
    return Several("list", tuple(item for part in parts for item in _expanded(part)))


def _relation(text: str) -> Answer | None:
    pieces = list(_outside(text, _SIGNS))
    signs = [text[start:end] for start, end in pieces]
    if not signs:
        return None
    bounds = [0, *(at for piece in pieces for at in piece), len(text)]
    sides = [text[bounds[i] : bounds[i + 1]].strip() for i in range(0, len(bounds), 2)]
    if not all(sides):
        return None
    if signs[0] in ("=", "\\in") and _NAME.fullmatch(sides[0]):
        rest = text[pieces[0][1] :].strip()
        sign, right = "=", sides[-1]
        return Named(_name(sides[0]), read(rest), Relation(sign, sides[0], right))
    if set(signs) <= {"=", "\\approx"}:
        return _chain(sides, signs)
    return _inequality(sides, signs)


def _name(text: str) -> str:
    return re.sub(r"[\s{}]", "", text)


def _chain(sides: list[str], signs: list[str]) -> Answer | None:
    """A chain of equal values is its last one; None if they differ, since that would state two answers."""
    answers = [read(side) for side in sides]
    values = [isinstance(answer, Quantity) and not variables(answer.formula) for answer in answers]
    if not all(values):
        return Relation("=", sides[0], sides[-1]) if signs == ["="] else None
    for (before, after), sign in zip(pairwise(answers), signs, strict=True):
        if sign == "=" and not (equal(before, after) or _as_percent(before, after)):
            return None
    if "\\approx" in signs:
        return Rounded(answers[signs.index("\\approx")], answers[-1])
    return answers[-1]


def _as_percent(left: Answer, right: Answer) -> bool:
    if not isinstance(left, Quantity) or not isinstance(right, Quantity):
        return False
    scaled = [f"({q.formula})/100" if q.unit.kind == "%" else q.formula for q in (left, right)]
    return same_formula(*scaled)


def _inequality(sides: list[str], signs: list[str]) -> Answer | None:
    """An inequality of one name with numbers as the interval of that name."""
    upward = {"<": ")", "\\le": "]"}
    downward = {">": ")", "\\ge": "]"}
    for table, ordered in ((upward, sides), (downward, sides[::-1])):
        if not all(sign in table for sign in signs) or len(sides) > 3:
            continue
        ends = [table[sign] for sign in (signs if table is upward else signs[::-1])]
        if len(sides) == 2:
            low, high = ("-\\infty", ordered[1]) if _NAME.fullmatch(ordered[0]) else (ordered[0], "\\infty")
            name, ends = (ordered[0], [")", ends[0]]) if low == "-\\infty" else (ordered[1], [ends[0], ")"])
        else:
            low, name, high = ordered
        if _NAME.fullmatch(name):
            brackets = ("(" if ends[0] == ")" else "[") + ends[1]
            interval = Several(brackets, (read(low), read(high)))
            return Named(_name(name), interval, Relation(signs[0], sides[0], sides[1]))
    return Relation(signs[0], sides[0], sides[1]) if len(sides) == 2 else None


def _plus_minus(text: str) -> Several | None:
    if not re.search(r"\\(?:pm|mp)(?![A-Za-z])", text):
        return None
    signs = ({"pm": "+", "mp": "-"}, {"pm": "-", "mp": "+"})
    both = (re.sub(r"\\(pm|mp)(?![A-Za-z])", lambda m, table=table: table[m[1]], text) for table in signs)
    return Several("list", tuple(read(each) for each in both))


def _quantity(text: str) -> Answer | None:
    if re.fullmatch(r"[+-]?\s*\\infty", text):
        return Words("-infinity" if text.startswith("-") else "infinity")
    digits = in_digits(text)
    if currency := _CURRENCY.fullmatch(digits):
        return _money(currency[1] + currency[3], unit_of(currency[2]) or _NO_UNIT)
    if digits.endswith(("%", *CURRENCIES)):
        readable = variables(digits[:-1]) is not None
        return Quantity(digits[:-1], unit_of(digits[-1]) or _NO_UNIT) if readable else None
    if measured := _measured(digits):
        return measured
    letters = variables(digits)
    if letters is None or _is_prose(digits):
        return None
    return Quantity(digits, whole=digits if letters else "")


def _money(amount: str, unit: Unit) -> Answer | None:
    inner = _quantity(amount)
    if not isinstance(inner, Quantity):
        return None
    is_other_unit = inner.unit.kind not in ("", unit.kind) and not inner.unit.kind.startswith("counted")
    return None if is_other_unit else replace(inner, unit=unit)


def _measured(text: str) -> Quantity | None:
    """A number with a unit behind it."""
    for match in _ENDS_A_NUMBER.finditer(text):
        number, words = text[: match.end() - len(match[1])], text[match.end() :]
        is_letter_glued_on = not match[1] and re.match(r"[A-Za-z](?![A-Za-z])", words)
        if is_letter_glued_on or words == "M" or not _UNIT.fullmatch(words):
            continue
        unit = unit_of(words, one=number.strip() == "1")
        if unit is not None and variables(number) is not None:
            return Quantity(number, unit, text if variables(text) else "")
    return None


def _is_prose(text: str) -> bool:
    return bool(_PROSE.fullmatch(text.strip()))


def _words(text: str) -> str:
    if re.search(r"[\\=^_+*/]", text):
        return re.sub(r"\s", "", text)  # mathematics that cannot be read, as it is written
    text = re.sub(r"[^\w\s'%-]", " ", text.lower())
    return " ".join(word for word in text.split() if word not in ("a", "an", "the"))


def _outside(text: str, pattern: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Where the pattern matches outside brackets."""
    depths, depth = [], 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        depths.append(depth if char not in "([{" else depth - 1)
    for match in pattern.finditer(text):
        if match.start() < len(depths) and depths[match.start()] <= 0:
            yield match.span()


def _split(text: str, separators: re.Pattern[str]) -> list[str]:
    """The parts between separators outside brackets."""
    spans = list(_outside(text, separators))
    bounds = [0, *(at for span in spans for at in span), len(text)]
    return [text[bounds[i] : bounds[i + 1]].strip() for i in range(0, len(bounds), 2)]


def _is_one_group(text: str, opening: int, closing: int) -> bool:
    """Whether the first bracket is closed by the last one, whichever kind they are."""
    depth = 0
    for at, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if depth <= 0 and at >= opening - 1 and at < len(text) - 1:
            return False
    return depth == 0 or (opening == closing == 1 and depth == 0) or "\\langle" in text
