"""Which answer does a text give at its end? A box, a line after `####`, `the answer is`, or else its last sentence.

The last of these counts. An answer that is negated or taken back does not. Boxes side by side are one answer with
several parts, which equals no single answer.
"""

from __future__ import annotations

import re
from itertools import pairwise

from training.tasks.answer import LONGEST
from training.tasks.quantities import changes_a_number, in_digits, unit_of

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*(\{)?")
_UNBRACED = re.compile(r"[^\s$\\{}]*[^\s$\\{}.,;:!]|\\frac\s*\d\s*\d")
_SIDE_BY_SIDE = re.compile(r"[\s$,;.&]*(?:(?:\\text\{)?\s*(?:and|or)\s*\}?)?[\s$]*|\s*\\quad\s*", re.IGNORECASE)
_CONTINUES = re.compile(
    r"\s*\$?\s*(?:\\%|%|\^|!|\*|/|\\pi\b|\\sqrt\b|\\cdot\b|\\times\b|[+-]\s*[\d\\A-Za-z]|([A-Za-z]+))"
)
_END = r"(?=[.!]?[\s*$]*$|(?<!\bsq)(?<!\bft)(?<!\bapprox)(?<!\bMr)(?<!\bDr)(?<!\bSt)(?<!\\)[.!]\s|\?)"
_SAYS = (
    r"(?:\s+(?:must be|would be|should be|will be|is|are|was|equals|comes to|=)"
    r"(?![A-Za-z'])(?!\s+not\b)(?:\s*:)?|\s*[:=])"
)
_INTRODUCED = re.compile(
    r"\b(?:answer|solution|(?:correct|right|best)\s+(?:option|choice|answer))(?![A-Za-z])\)?"
    rf"(?:\s+(?:to|for|of|in)\s+[^\n.:=?!]{{1,80}}?)?{_SAYS}\s*"
    r"(?:(?:therefore|thus|then|clearly|simply|indeed|also|still|hence|just|equal to|given by|exactly|now|approximately"
    r"|approx\.?|roughly|about|option|choice|letter)[\s,:]+)*"
    rf"(\S[^\n]*?){_END}",
    re.IGNORECASE | re.MULTILINE,
)
_INSTEAD = re.compile(
    rf"\b(?:is|was)(?: not|n't)\s[^\n.?!]{{1,60}}?\bbut(?: rather)?\s+([^\n]*?){_END}", re.IGNORECASE | re.MULTILINE
)
_HEADED = re.compile(r"^[#\s]*(?:the\s+)?(?:final\s+)?answer\s*\n+\s*(\S[^\n]*?)\s*$", re.IGNORECASE | re.MULTILINE)
_HASHES = re.compile(r"####\s*(\S[^\n]*?)\s*\Z")
_TAKEN_BACK = re.compile(
    r"\bwait\b|\bactually\b|\bno[,:.]|\bcorrection\b|\b(?:i|we) made an? (?:mistake|error)\b"
    r"|\bscratch that\b|\bi mean\b|\bthat(?:'s| is| was) (?:wrong|incorrect|not right)"
    r"|\bon second thought\b|\bsorry\b|\bhmm\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<!\bsq)(?<!\bft)(?<!\bMr)(?<!\bDr)(?<!\bSt)(?<!\bp\.m)(?<!\ba\.m)[.!?](?=\s|$)|\n+")
_NEGATED = re.compile(
    r"\b(?:not|never|cannot|can't|isn't|aren't|doesn't|don't|unclear|unknown|impossible)\b", re.IGNORECASE
)
_UNSURE = re.compile(
    r"\b(?:or|either|between|maybe|perhaps|at least|at most|more than|less than|up to|fewer than)\b", re.IGNORECASE
)
_NUMBER = re.compile(
    r"(?<![\w.^{\\])(?:(?:US)?[$\u00a4\u20ac\u00a3\u00a5\u20b9]\s?)?-?(?:\d{1,3}(?:,\d{3})+(?![\d])|\d+)(?:\.\d+)?"
    r"(?:e[+-]?\d+)?(?:\s+\d+/\d+|/\d+)?(?:\s?\\?%)?(?![\w^])"
)
_BESIDE = re.compile(
    r"(?:\bout of|\d\s+of|\bof (?:the|his|her|their|those)|\bthan|\bafter|\bwithin|\bevery|\bper|\bfrom)\s+$",
    re.IGNORECASE,
)
_FOLLOWING = re.compile(r"\s*-?\s*\(?([A-Za-z]+)(\^\d|\s+[A-Za-z]+)?")
_MATHEMATICS = re.compile(r"\s*(?:\\|\^|[*/+x]\s*\d|-\s*\d|:\d|!)")
_LISTED = re.compile(r"\s*(?:[,;/&]\s*)?(?:and\s+)?")
_HARMLESS = ("and", "more", "less", "fewer", "than", "over", "if", "but", "to", "not", "above", "below", "about")
"""Words that may follow the number of a sentence, though not a number that stands alone."""
_LAST = 6000
"""Characters of the end of a text in which an answer is looked for."""
_MOST_BOXES = 20


def final_answer(text: str) -> str | None:
    """The last answer that the text marks as one, in a box, after `####` or by `answer is`; None if it marks none."""
    return marked_answer(text) or None


def marked_answer(text: str) -> str | None:
    """The same, but empty if the text has marked an answer and taken it back, so that nothing else counts either."""
    text = _prepared(text)
    candidates = [(m.end(1), m[1]) for m in _INTRODUCED.finditer(text) if not text.startswith("?", m.end(1))]
    candidates += [(m.end(1), m[1]) for pattern in (_HEADED, _INSTEAD, _HASHES) for m in pattern.finditer(text)]
    boxed = _boxed(text)
    if boxed:
        candidates.append(boxed[:2])
    if not candidates:
        return None
    end, answer = max(candidates)
    if boxed and (_BOX.search(answer) or end < boxed[0]):
        end, answer = max(end, boxed[0]), boxed[1]
    if boxed and boxed[2] > end:
        return ""  # a later box was never closed
    if _TAKEN_BACK.search(text[end:]):
        return closing_number(text[end:]) or ""
    if taken_back := list(_TAKEN_BACK.finditer(answer)):
        answer = answer[taken_back[-1].end() :].strip(" ,:.")
    answer = answer.strip().rstrip(".").strip("*").strip()
    while box := re.fullmatch(r"\\(?:boxed|fbox)\s*\{(.*)\}", answer, re.DOTALL):
        answer = box[1].strip()
    if answer.startswith("$") and answer.endswith("$") and answer.count("$") == 2:
        answer = answer[1:-1].strip()
    return answer


def closing_sentences(text: str) -> list[str]:
    """The last sentences of a text, the last one first, without questions."""
    text = _prepared(text).strip()
    if _BOX.search(text):
        return []  # a box that was never closed
    cuts = [0, *(m.end() for m in _SENTENCE.finditer(text)), len(text)]
    sentences = [text[a:b].strip() for a, b in pairwise(cuts)]
    return [s.rstrip(".! ") for s in reversed(sentences) if s.strip(" .!?*$") and not s.endswith("?")]


def closing_number(text: str) -> str | None:
    """The number in which the last sentence that has one ends; None if it is negated, or one of several candidates."""
    for sentence in closing_sentences(text)[:3]:
        digits = in_digits(sentence[-LONGEST:])
        numbers = list(_NUMBER.finditer(digits))
        if not numbers:
            continue
        if _UNSURE.search(digits) or _NEGATED.search(digits):
            return None
        if len(numbers) > 1 and _LISTED.fullmatch(digits[numbers[-2].end() : numbers[-1].start()]):
            return None
        main = [m for m in numbers if not _BESIDE.search(digits[: m.start()])] or numbers
        number, rest = main[-1][0].strip(), digits[main[-1].end() :]
        after = _FOLLOWING.match(rest)
        if after and changes_a_number(after[1]) and after[1].lower() not in _HARMLESS:
            return None
        if _MATHEMATICS.match(rest):
            return None
        unit = after and not changes_a_number(after[1]) and unit_of(f"{after[1]}{after[2] or ''}")
        return f"{number} {after[1]}{after[2] or ''}" if after and unit and unit.kind else number
    return None


def closing_phrases(text: str) -> list[str]:
    """What the last sentence may state: all of it, what follows its last `=`, its only formula, what follows `is`."""
    sentences = closing_sentences(text)
    if not sentences:
        return []
    sentence = sentences[0]
    if _NEGATED.search(sentence):
        return [sentence]
    phrases = [sentence]
    if "=" in sentence:
        phrases.append(sentence.rpartition("=")[2].strip(" $"))
    if len(spans := re.findall(r"\$([^$]+)\$", sentence)) == 1 and not re.search(
        r"[\d\\]", sentence.replace(spans[0], "")
    ):
        phrases.append(spans[0])
    if copula := list(re.finditer(r"\b(?:is|are|was|were|equals|be)\s+", sentence)):
        phrases.append(sentence[copula[-1].end() :])
    return phrases


def _prepared(text: str) -> str:
    """The end of the text with display mathematics in one line between dollar signs, and without Markdown's bold."""
    text = re.sub(r"[^\S\n]+", " ", text[-_LAST:])
    text = re.sub(r"\n(?: ?\n){2,}", "\n\n", text)
    text = re.sub(r"(?<!\\)\\\[\s*|(?:(?<!\s)\s+)?(?<!\\)\\\]|\$\$ ?\n?|(?<!\\)\\[()]", "$", text).replace("$$", "$")
    text = re.sub(r"\n ?\$ ?\n", " $\n", text)
    return re.sub(r"(?<!\d)\*\*|\*\*(?!\d)|(?<![\w\\])__|__(?!\w)", "", text)


def _boxed(text: str) -> tuple[int, str, int] | None:
    """(end, content, start of the last box) of the last complete box, with boxes beside it and what continues it."""
    closing, found = _closing_braces(text), list(_BOX.finditer(text))[-_MOST_BOXES:]
    boxes = [box for start in found if (box := _box_at(text, start, closing))]
    boxes = [box for box in boxes if not any(other[0] < box[0] and box[1] < other[1] for other in boxes)]
    if not boxes:
        return None
    first = len(boxes) - 1
    while first and _SIDE_BY_SIDE.fullmatch(text[boxes[first - 1][1] : boxes[first][0]]):
        first -= 1
    beside = list(dict.fromkeys(content.strip() for _, _, content in boxes[first:]))
    start, end, _ = boxes[-1]
    before, after = text[:start].rstrip(" $"), text[end:]
    if re.search(r"\b(?:not|isn't)$", before):
        return None
    content = ", ".join(beside)
    if before.endswith(("-", "\u2212")) and not re.search(r"\w\s*.$", before):
        content = f"-{content}"
    if (match := _CONTINUES.match(after)) and (not match[1] or _changes(match[1], after[match.end() :])):
        content += re.split(r"\n|[.!?]\s|[.]$", after.replace("$", " "))[0]
    return end, content, found[-1].start()


def _changes(word: str, rest: str) -> bool:
    """Whether a word after a box belongs to the answer: `or`, `million`; `and` only before another number."""
    if word.lower() in ("and", "to"):
        return bool(re.match(r"\s*\$?[\d\\-]", rest))
    return changes_a_number(word) and word.lower() not in (
        "if",
        "but",
        "above",
        "below",
        "not",
        "wrong",
        "about",
        "than",
    )


def _box_at(text: str, start: re.Match[str], closing: dict[int, int]) -> tuple[int, int, str] | None:
    if not start[1]:
        content = _UNBRACED.match(text, start.end())
        return (start.start(), content.end(), content[0]) if content else None
    end = closing.get(start.start(1))
    return (start.start(), end + 1, text[start.end() : end]) if end is not None else None


def _closing_braces(text: str) -> dict[int, int]:
    """Where each opening brace is closed."""
    opened, closing = list[int](), dict[int, int]()
    for match in re.finditer(r"[{}]", text):
        if match[0] == "{":
            opened.append(match.start())
        elif opened:
            closing[opened.pop()] = match.start()
    return closing
