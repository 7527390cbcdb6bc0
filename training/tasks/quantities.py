"""Which words belong to a number? Spelled-out numbers, words that change a number, and units.

Units are a list, with the factor to the first unit of their kind. Other nouns are counted things, such as `apples`.
Words that make something else of a number (`squared`, `or`, `dozen`, `pi`) are neither.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction


def _listed(words: str) -> tuple[str, ...]:
    return tuple(words.split())


_ONES = _listed(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
_TENS = _listed("twenty thirty forty fifty sixty seventy eighty ninety")
SCALES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
    "dozens": 12,
    "gross": 144,
}
_SMALL = {word: n for n, word in enumerate(_ONES)} | {word: 10 * n for n, word in enumerate(_TENS, 2)}
_PARTS = {"half": 2, "halves": 2} | {
    f"{word}{ending}": n
    for word, n in (
        *zip(
            _listed("third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"), range(3, 13), strict=True
        ),
        ("quarter", 4),
        ("hundredth", 100),
        ("thousandth", 1000),
    )
    for ending in ("", "s")
}
_WORD = "|".join([*sorted(_SMALL, key=len, reverse=True), "hundred", "thousand", "million", "billion", "trillion"])
_CARDINAL = re.compile(rf"\b(?:(?:{_WORD})\b(?:(?:-|\s+(?:and\s+)?)(?=(?:{_WORD})\b))?)+", re.IGNORECASE)
_PART = "|".join(sorted(_PARTS, key=len, reverse=True))
_SCALE = "|".join(sorted(SCALES, key=len, reverse=True))
_N = r"(?<![\w.\\])(\d+(?:\.\d+)?)"
_REWRITTEN = (
    (re.compile(rf"{_N}\s+and\s+(?:a|one|1)\s+(half|third|quarter|fourth|fifth)\b", re.IGNORECASE), "_mixed"),
    (re.compile(rf"{_N}\s+and\s+(\d+)[\s-]+({_PART})\b", re.IGNORECASE), "_mixed_many"),
    (re.compile(rf"(?<![\w.\\])(\d+)[\s-]+({_PART})\b", re.IGNORECASE), "_part"),
    (re.compile(r"^(?:a|one|1)?\s*(half|third|quarter)$", re.IGNORECASE), "_alone"),
    (re.compile(rf"{_N}\s*({_SCALE})\b", re.IGNORECASE), "_scaled"),
    (re.compile(r"(?<![\w.\\])(\d+(?:\.\d+)?)(k|K|M|bn)(?![A-Za-z/^])"), "_short"),
    (re.compile(r"\b(a)\s+(dozen|hundred|thousand|million|billion)\b", re.IGNORECASE), "_scaled"),
)
_OPERATORS = (
    (re.compile(r"\b(?:negative|minus)\s+(?=[\d.(\\])", re.IGNORECASE), "-"),
    (re.compile(r"\bthe\s+(?=(?:square|cube) root)", re.IGNORECASE), ""),
    (re.compile(r"\bsquare root of\s+", re.IGNORECASE), r"\\sqrt "),
    (re.compile(r"\bcube root of\s+", re.IGNORECASE), r"\\sqrt[3] "),
    (re.compile(r"(?<=[\d)}a-z])\s+squared\b", re.IGNORECASE), "^2"),
    (re.compile(r"(?<=[\d)}a-z])\s+cubed\b", re.IGNORECASE), "^3"),
    (re.compile(r"\s+to the power(?: of)?\s+(?=[-\d(])", re.IGNORECASE), "^"),
    (re.compile(r"(?<=[\d)}])\s+plus\s+(?=[\d.(\\-])", re.IGNORECASE), " + "),
    (re.compile(r"(?<=[\d)}])\s+minus\s+(?=[\d.(\\-])", re.IGNORECASE), " - "),
    (re.compile(r"(?<=[\d)}])\s+(?:times|multiplied by|x)\s+(?=[\d.(\\-])", re.IGNORECASE), " * "),
    (re.compile(r"(?<=[\d)}])\s+(?:divided by|over|out of)\s+(?=[\d.(\\-])", re.IGNORECASE), " / "),
    (re.compile(r"(?<![\\A-Za-z])pi\b", re.IGNORECASE), r"\\pi "),
    (re.compile(r"(?<![\\A-Za-z])infinity\b", re.IGNORECASE), r"\\infty "),
    (re.compile(r"(?<![\\A-Za-z])sqrt\b"), r"\\sqrt "),
    (re.compile(r"\s*\bper ?cent\b", re.IGNORECASE), "%"),
    (re.compile(r"\s*\bpercentage points?\b", re.IGNORECASE), "%"),
)


def in_digits(text: str) -> str:
    """The text with its spelled-out numbers and operations as mathematics: `five million` is `5000000`."""
    text = _CARDINAL.sub(_cardinal, text)
    for pattern, how in _REWRITTEN:
        text = pattern.sub(_HOW[how], text)
    for pattern, new in _OPERATORS:
        text = pattern.sub(new, text)
    return text


def _cardinal(match: re.Match[str]) -> str:
    """The value of words such as `one hundred and five`; unchanged if they are not one number (`five six`)."""
    words = [word for word in re.split(r"[\s-]+", match[0].lower()) if word and word != "and"]
    if words[0] not in _SMALL:
        return match[0]
    total, group = 0, 0
    for word in words:
        if word in _SMALL:
            size = _SMALL[word]
            fits = group % 100 == 0 or (size < 10 and group % 10 == 0 and group % 100 >= 20)
            if not fits:
                return match[0]
            group += size
        elif word == "hundred":
            group *= 100
        else:
            total, group = total + group * SCALES[word], 0
    return str(total + group) + (" " if match[0][-1].isspace() else "")


_HOW = {
    "_mixed": lambda m: f"({m[1]}+1/{_PARTS[m[2].lower()]})",
    "_mixed_many": lambda m: f"({m[1]}+{m[2]}/{_PARTS[m[3].lower()]})",
    "_part": lambda m: f"({m[1]}/{_PARTS[m[2].lower()]})",
    "_alone": lambda m: f"(1/{_PARTS[m[1].lower()]})",
    "_scaled": lambda m: _times("1" if m[1].lower() == "a" else m[1], SCALES[m[2].lower()]),
    "_short": lambda m: _times(m[1], {"k": 10**3, "m": 10**6, "bn": 10**9}[m[2].lower()]),
}


def _times(number: str, scale: int) -> str:
    value = Fraction(number) * scale
    return str(value) if value.denominator == 1 else f"({value})"


@dataclass(frozen=True)
class Unit:
    """What is measured or counted, and the factor to the first unit of that kind."""

    kind: str
    factor: Fraction = Fraction(1)


def _table(kind: str, *rows: str) -> dict[str, Unit]:
    return {name: Unit(kind, Fraction(row.split()[0])) for row in rows for name in row.split()[1:]}


_UNITS = {
    **_table(
        "length",
        "1 m meter meters metre metres",
        "1/1000 mm millimeter millimeters millimetre millimetres",
        "1/100 cm centimeter centimeters centimetre centimetres",
        "1/10 dm decimeter decimeters",
        "1000 km kilometer kilometers kilometre kilometres",
        "127/5000 in inch inches",
        "381/1250 ft foot feet",
        "1143/1250 yd yds yard yards",
        "201168/125 mi mile miles",
    ),
    **_table(
        "mass",
        "1 g gram grams gramme grammes",
        "1/1000 mg milligram milligrams",
        "1000 kg kgs kilo kilos kilogram kilograms",
        "1000000 ton tons tonne tonnes",
        "45359237/100000 lb lbs pound pounds",
        "45359237/1600000 oz ounce ounces",
    ),
    **_table(
        "time",
        "1 s sec secs second seconds",
        "1/1000 ms millisecond milliseconds",
        "60 min mins minute minutes",
        "3600 h hr hrs hour hours",
        "86400 day days",
        "604800 week weeks wk wks",
    ),
    **_table("months", "1 month months", "12 yr yrs year years", "120 decade decades", "1200 century centuries"),
    **_table("volume", "1 l liter liters litre litres", "1/1000 ml milliliter milliliters", "1/100 cl"),
    **_table("US volume", "1 cup cups", "2 pint pints", "4 quart quarts", "16 gal gallon gallons"),
    **_table("USD", "1 dollar dollars usd buck bucks \u00a4", "1/100 cent cents \u00a2"),
    **_table("EUR", "1 \u20ac euro euros eur"),
    **_table("GBP", "1 \u00a3 gbp", "1/100 pence"),
    **_table("JPY", "1 \u00a5 yen jpy"),
    **_table("INR", "1 \u20b9 rupee rupees inr rs"),
    **_table("KRW", "1 \u20a9 won krw"),
    **_table("degree", "1 degree degrees deg", "1/60 arcminute arcminutes"),
    **_table("radian", "1 radian radians rad"),
    **_table("Celsius", "1 celsius"),
    **_table("Fahrenheit", "1 fahrenheit"),
    **_table("energy", "1 j joule joules", "1000 kj kilojoule kilojoules"),
    **_table("calorie", "1 cal calorie calories", "1000 kcal"),
    **_table("power", "1 w watt watts", "1000 kw kilowatt kilowatts"),
    **_table("voltage", "1 v volt volts"),
    **_table("force", "1 newton newtons"),
    **_table("length/time", "1397/3125 mph", "5/18 kph kmh"),
    **_table("data", "1 byte bytes", "1000 kb", "1000000 mb", "1000000000 gb"),
    **_table("%", "1 %"),
    **_table("unit", "1 unit units"),
}
CURRENCIES = "\u00a4\u20ac\u00a3\u00a5\u20b9\u20a9\u00a2"
_POWERS = frozenset("0123456789")
_CHANGES = _listed(
    "or and to squared cubed pi times plus minus over than less fewer least most not nor no factorial mod modulo "
    "base choose root roots remainder point half halves third thirds quarters fourth fourths fifth fifths sixth "
    "sixths seventh sevenths eighth eighths ninth ninths tenth tenths hundredth hundredths thousandth thousandths "
    "million millions billion billions trillion trillions thousand thousands hundred hundreds dozen dozens score "
    "scores gross tens ones twos pair pairs percent infinity repeating recurring if unless but wrong incorrect "
    "except versus vs approximately about around divided multiplied raised power sqrt log ln sin cos tan exp "
    "between either neither maybe perhaps possibly ish almost nearly negative below positive above short lakh "
    "crore k bn"
)
_ASIDE = _listed(
    "more total left remaining altogether each apiece away old long tall high wide deep apart ago later together "
    "overall additional extra in per now daily weekly monthly yearly annually of every a an only"
)
_PEOPLE = _listed(
    "people children men women sheep fish deer teeth mice geese students kids feet dice lives loaves leaves "
    "knives wolves shelves persons cattle police staff bread water milk rice money fruit"
)


def unit_of(words: str, *, one: bool = False) -> Unit | None:
    """What the words after a number say is counted; kind '' if they leave that open; None if they are no unit.

    Args:
        words: letters, with powers such as `cm^2`; what follows the unit (`eggs left to sell`) does not count.
        one: the number is 1, after which a noun is singular.
    """
    text = re.sub(r"\^\{?(\d)\}?", r"^\1", words.strip().lower().replace(".", ""))
    listed = [word for word in re.split(r"[\s,-]+", text) if word]
    power = 1
    while listed and listed[0] in ("square", "sq", "cubic", "cu"):
        power = 2 if listed.pop(0) in ("square", "sq") else 3
    if not listed or (any(word in _CHANGES for word in listed) and listed != ["times"]):
        return Unit("") if not listed and power == 1 else None
    first, _, exponent = listed[0].partition("^")
    if exponent and exponent not in _POWERS:  # `cm^2answer`
        return None
    first, _, per = first.partition("/")
    if first == "in" and len(listed) > 1:  # `5 in total`
        return Unit("")
    if unit := _UNITS.get(first):
        return _measured(unit, int(exponent or power), per, listed[1:])
    if power > 1 or exponent or per:
        return None
    return Unit("") if first in _ASIDE else _counted(listed, one=one)


def _measured(unit: Unit, power: int, per: str, rest: list[str]) -> Unit | None:
    if rest and rest[0].partition("^")[2] and _UNITS.get(rest[0].partition("^")[0]):
        return None
    if unit.kind == "degree" and rest and rest[0] in ("celsius", "c", "fahrenheit", "f"):
        return Unit("Celsius" if rest[0].startswith("c") else "Fahrenheit")
    if len(rest) >= 2 and rest[0] in ("per", "a", "an") and not per:
        per = rest[1]
    kind = f"{unit.kind}^{power}" if power > 1 else unit.kind
    if not per:
        return Unit(kind, unit.factor**power)
    below = _UNITS.get(per, Unit(per.rstrip("s")))
    return Unit(f"{kind}/{below.kind}", unit.factor**power / below.factor)


def _counted(words: list[str], *, one: bool) -> Unit | None:
    """A noun, with at most three adjectives before it, as a plural or after 1."""
    for word in words[:4]:
        if not re.fullmatch(r"[a-z']{2,}", word) or word in _ASIDE:
            return None
        plural = word in _PEOPLE or (word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 2)
        if plural:
            return Unit(f"counted {word.removesuffix('s')}")
    return Unit(f"counted {words[0]}") if one and len(words[0]) > 2 else None


def changes_a_number(word: str) -> bool:
    """Whether a word after a number makes another number, or no number, of it: `squared`, `or`, `dozen`."""
    return word.lower() in _CHANGES
