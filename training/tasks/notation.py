"""How is an answer spelled without its decoration? LaTeX, Unicode and Markdown as plain mathematics and words."""

from __future__ import annotations

import re
import unicodedata

DOLLAR = "\u00a4"
"""Stands for a dollar sign that is a currency. The other dollar signs, which begin and end mathematics, are removed."""

_COMMANDS = {
    "\u2212": "-",
    "\u2013": "-",
    "\u2014": "-",
    "\u00d7": r"\times ",
    "\u00b7": r"\cdot ",
    "\u22c5": r"\cdot ",
    "\u2217": "*",
    "\u00f7": "/",
    "\u2044": "/",
    "\u221a": r"\sqrt ",
    "\u03c0": r"\pi ",
    "\u221e": r"\infty ",
    "\u2264": r"\le ",
    "\u2265": r"\ge ",
    "\u2260": r"\ne ",
    "\u2248": r"\approx ",
    "\u222a": r"\cup ",
    "\u2208": r"\in ",
    "\u00b1": r"\pm ",
    "\u00b0": r"^\circ ",
    "\u2019": "'",
    "\u2018": "'",
    "\u201c": '"',
    "\u201d": '"',
    "\u2032": "'",
}
_TEXT = re.compile(
    r"\\(?:text|textnormal|textbf|textit|textrm|texttt|textsf|mathrm|mathbf|mathit|mathsf|mbox|hbox|emph|operatorname|boldsymbol|bm)"
    r"\*?\s*\{([^{}]*)\}"
)
_SIZES = re.compile(
    r"\\(?:left|right|bigg?[lr]?|Bigg?[lr]?|displaystyle|textstyle|rm|bf|it|limits|nolimits)(?![A-Za-z])"
)
_THOUSANDS = re.compile(r"(?<=\d)(?:,?\\[,!;: ]|\{,\}|,(?=\d{3}(?!\d)(?:,\d{3})*(?![,\d]))|~)\s*(?=\d{3}(?!\d))")
_RENAMED = (
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\[dt]binom(?![A-Za-z])"), r"\\binom"),
    (re.compile(r"\\(?:leq|leqslant|lt)(?![A-Za-z])"), lambda m: "<" if m[0] == r"\lt" else r"\le"),
    (re.compile(r"\\(?:geq|geqslant|gt)(?![A-Za-z])"), lambda m: ">" if m[0] == r"\gt" else r"\ge"),
    (re.compile(r"<="), r"\\le "),
    (re.compile(r">="), r"\\ge "),
    (re.compile(r"\\(?:degree|degrees)(?![A-Za-z])|\^\s*\{?\s*\\circ\s*\}?"), " degrees "),
    (re.compile(r"\\lbrace(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\l[Vv]ert(?![A-Za-z])|\\r[Vv]ert(?![A-Za-z])|\\vert(?![A-Za-z])|\\mid(?![A-Za-z])"), "|"),
    (re.compile(r"\\phantom\s*(?:\{[^{}]*\}|\S)"), " "),
    (re.compile(r"\\(?:pounds|euro)(?![A-Za-z])"), lambda m: {"\\pounds": "\u00a3", "\\euro": "\u20ac"}[m[0]]),
)
_SPACES = re.compile(r"(?<!\\)\\(?:[,;:! ]|quad(?![A-Za-z])|qquad(?![A-Za-z])|thinspace(?![A-Za-z]))|~")
_GROUPS = re.compile(
    r"(?<![\w.,])\d{1,3}(?:([ '_])\d{3}(?:\1\d{3})*|(?:,\d{3})+|(?:\.\d{3}){2,}(?:,\d+)?|(?:\.\d{3})+,\d+)"
    r"(?![\w]|[.,]\d{3}\b)"
)
_REPEATING = re.compile(
    # Not from within a number: a long one would be read again from each of its digits. int() reads at most 4300 digits.
    r"(?<!\d)(\d{0,300})\.(\d{0,300})\\(?:overline|bar)\s*(?:\{\s*(\d{1,300})\s*\}|(\d))"
)
_MOST_WRAPPINGS = 10


def plain(answer: str) -> str:
    """An answer without dollar signs, sizes, fonts, spacing and Markdown; its numbers without thousands separators.

    LaTeX that means something, such as `\\frac`, stays. A currency's dollar sign becomes `DOLLAR`.
    """
    text = _without_unicode(answer)
    text = _without_dollars(text)
    text = _THOUSANDS.sub("", _SIZES.sub(" ", text))
    for pattern, new in _RENAMED:
        text = pattern.sub(new, text)
    for _ in range(3):  # nested at most so deep
        text = _TEXT.sub(r" \1 ", text)
    text = _SPACES.sub(" ", re.sub(r"\\!", "", text)).replace(r"\%", "%").replace(r"\#", "#").replace(r"\&", "&")
    text = re.sub(r"\s+(?=[_^])", "", re.sub(r"\s+", " ", text))
    text = _REPEATING.sub(_repeating, text)
    return grouped(re.sub(r"^\\(?:approx|thickapprox|simeq)\s*", "", _without_wrapping(text)))


def grouped(text: str) -> str:
    """The text with numbers such as `1,234`, `1 234` and `1.234.567,5` as `1234`, `1234` and `1234567.5`."""

    def joined(match: re.Match[str]) -> str:
        number = match[0]
        if re.fullmatch(r"\d{1,3}(?:\.\d{3})+(?:,\d+)?", number):
            return number.replace(".", "").replace(",", ".")
        return re.sub(r"[ ',_]", "", number)

    inside = re.match(r"\s*(?:[(\[]|\\\{)", text)  # a comma between brackets separates
    return text if inside else _GROUPS.sub(joined, text)


def _without_unicode(text: str) -> str:
    pieces: list[str] = []
    for char in text:
        if char.isascii():
            pieces.append(char)
            continue
        kind, _, written = unicodedata.decomposition(char).partition(" ")
        digits = "".join(chr(int(code, 16)) for code in written.split()) if kind.startswith("<") else ""
        if char in _COMMANDS:
            pieces.append(_COMMANDS[char])
        elif kind == "<fraction>":
            pieces.append(f" {digits.replace(chr(0x2044), '/')}")
        elif kind in ("<super>", "<sub>") and digits:
            pieces.append(f"{'^' if kind == '<super>' else '_'}{{{_COMMANDS.get(digits, digits)}}}")
        else:
            pieces.append(unicodedata.normalize("NFKC", char))
    return "".join(pieces).replace("}^{", "").replace("}_{", "") if not text.isascii() else text


def _without_dollars(text: str) -> str:
    text = re.sub(r"(?<!\\)\\[()]|(?<!\\)\\[\[\]]", "$", text).replace(r"\$", DOLLAR)
    text = text.strip().rstrip(".,;: ")
    signs = [match.start() for match in re.finditer(r"\$", text)]
    currency = signs and all(re.match(r"\$\s?[\d.]", text[at:]) for at in signs) and len(signs) < 3
    if currency and (len(signs) == 1 or " $" in text[1:]):
        return text.replace("$", DOLLAR)
    return text.replace("$", " ")


def _without_wrapping(text: str) -> str:
    """The text without Markdown, quotes and punctuation around it, and without braces around all of it."""
    for _ in range(_MOST_WRAPPINGS):  # not until none is left: each reads all of the text
        previous = text
        text = text.strip().strip("`\"'").strip()
        text = re.sub(r"^(\*{1,3}|_{1,3})(?=\S)(.*?\S)\1$", r"\2", text)
        text = text.strip("*").rstrip(".,;:").strip()
        if text.startswith("{") and text.endswith("}") and _closes_at_end(text):
            text = text[1:-1]
        if text == previous:
            break
    return text


def _closes_at_end(text: str) -> bool:
    depth = 0
    for at, char in enumerate(text):
        depth += {"{": 1, "}": -1}.get(char, 0)
        if depth == 0:
            return at == len(text) - 1
    return False


def _repeating(match: re.Match[str]) -> str:
    """A repeating decimal as a fraction: 0.1 with 6 repeated is (16 - 1) / 90."""
    whole, once, again = match[1] or "0", match[2], match[3] or match[4]
    above = int(whole + once + again) - int(whole + once)
    return f"({above}/{'9' * len(again)}{'0' * len(once)})"
