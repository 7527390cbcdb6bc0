"""Do two answers say the same, and which one does a judge prefer? Pure.

Agreement is of final answers: what is boxed, what follows "the answer is", or the last line, without case, spaces and
punctuation around it; numbers are equal if their values are. Answers that are worded freely rarely agree, although both
may be right; those are for a judge.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

Verdict = int
"""1 if the first answer is better, -1 if the second is, 0 if neither."""
MAX_JUDGED = 20_000
"""Characters of each text that a judge reads."""
_MAX_FINAL = 10_000
_BOXED = "\\boxed{"
_STATED = re.compile(r"\banswer\b\W{0,8}(?:is|:|=)\W{0,4}", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?[0-9]{1,30}(?:\.[0-9]{1,30})?")
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_AROUND = " \t\r\n.,;:!?*`'\"$()[]"

_JUDGE_PROMPT = """You compare two answers to the last message of a conversation. Say which one is better: correct, and
doing what was asked. Do not reward length or style. If both are equally good or equally bad, say so.

<conversation>
{conversation}
</conversation>
<answer_1>
{first}
</answer_1>
<answer_2>
{second}
</answer_2>

Reply with one word: FIRST, SECOND or EQUAL."""


def agree(one: str, other: str) -> bool:
    """Whether the final answers of two texts are the same."""
    return _normal(final_answer(one)) == _normal(final_answer(other))


def final_answer(text: str) -> str:
    """What a text says in the end: its last box, what follows its last "answer is", or its last line."""
    text = text.strip()[-_MAX_FINAL:]
    if (start := text.rfind(_BOXED)) >= 0:
        return _in_braces(text[start + len(_BOXED) :])
    stated = list(_STATED.finditer(text))
    if stated:
        return (text[stated[-1].end() :].strip().splitlines() or [""])[0]
    return (text.splitlines() or [""])[-1]


def _in_braces(text: str) -> str:
    """The text up to the brace that closes the one before it."""
    depth = 1
    for at, char in enumerate(text):
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return text[:at]
    return text


def _normal(answer: str) -> str:
    answer = " ".join(answer.strip(_AROUND).casefold().split())
    number = _THOUSANDS.sub("", answer)
    if _NUMBER.fullmatch(number):
        try:
            return str(Decimal(number).normalize() + 0)
        except InvalidOperation:
            return answer
    return answer


def judge_prompt(conversation: str, first: str, second: str) -> str:
    """What a judge is asked. It does not learn whose answers these are. Of long texts it reads the end."""
    texts = {"conversation": conversation, "first": first, "second": second}
    return _JUDGE_PROMPT.format(**{name: text[-MAX_JUDGED:] for name, text in texts.items()})


def verdict(reply: str) -> Verdict | None:
    """What a judge's reply says; None if it says nothing, or several things."""
    if word := re.fullmatch(r"\W*(first|second|equal)\W*", reply, re.IGNORECASE):
        reply = word[1].upper()
    found = set(re.findall(r"\b(FIRST|SECOND|EQUAL)\b", reply[-200:]))  # "the first" is no verdict
    return {"FIRST": 1, "SECOND": -1, "EQUAL": 0}[found.pop()] if len(found) == 1 else None
