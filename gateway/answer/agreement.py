"""Do two answers say the same, and which one does a judge prefer? Pure.

Agreement is of final answers: what is boxed, what follows "the answer is", or the last line, without case, and without
spaces, punctuation and brackets around it that say nothing; numbers are equal if their values are. Of an answer that
ends with a fence or with displayed mathematics it is what stands in that. Where no line says anything, it is of the
whole text: two answers that a judge has to compare are better than two that seem to agree. Answers that are worded
freely rarely agree, although both may be right; those are for a judge, too.
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
_STATED = re.compile(r"\banswer\b[\s*_\"'$`)\]]{0,8}(?:is\b|:|=)", re.IGNORECASE)
_INTRODUCED = ' \t\r\n*:="'
"""What stands between "the answer is" and the answer. A sign or an operator belongs to the answer."""
_BLOCKS = (("```", "```"), ("~~~", "~~~"), ("\\[", "\\]"), ("$$", "$$"))
_DELIMITER = re.compile(
    r"(?:```|~~~)[^`~]*|\\begin\{[^{}]{0,40}\}(?!.*\\end\{).*|\\end\{[^{}]{0,40}\}.{0,3}|</?[\w-]{1,40}>"
)
"""A line that begins or ends something, and says nothing itself."""
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,30}(?:\.[0-9]{1,30})?|\.[0-9]{1,30})")
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_BEFORE, _AFTER = ' \t\r\n*"$:=,;', ' \t\r\n*"$.,;:?'
"""Of a final answer. A point before it makes it a fraction, and an apostrophe behind it a derivative."""
_EXCLAIMED = re.compile(r"(?<=[^\W\d_][^\W\d_])!+$")
"""Behind a word; behind a number it is a factorial."""
_WRAPPERS = (("\\(", "\\)"), ("\\[", "\\]"), ("'", "'"), ("(", ")"))
_MOST_WRAPPERS = 4
_SEVERAL = frozenset(",;:|")
"""With these in brackets, the brackets say something: (1, 2) is no [1, 2]."""

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
    """What a text says in the end: its last box, what follows its last "answer is", or its last line or block."""
    text = text.strip()[-_MAX_FINAL:]
    if (start := text.rfind(_BOXED)) >= 0 and _bare(boxed := _enclosed(text[start + len(_BOXED) :], "{", "}")):
        return boxed
    stated = list(_STATED.finditer(text))
    if stated and (said := _first(text[stated[-1].end() :].strip().lstrip(_INTRODUCED))):
        return said
    last = (text.splitlines() or [""])[-1]
    return last if _says(last) else _last_block(text)


def _first(text: str) -> str:
    """The first line, or the block with which a text begins, or all of it; "" if that says nothing."""
    line = (text.splitlines() or [""])[0]
    if _says(line) and not line.rstrip(" \t*").endswith(":"):  # that introduces what follows
        return line
    for opening, closing in _BLOCKS:
        if text.startswith(opening) and (end := text.find(closing, len(opening))) >= 0:
            text = _content(text[:end], opening)
            break
    return text if _is_said(text) or len(_bare(text)) == 1 else ""


def _last_block(text: str) -> str:
    """The block that a text ends with; the whole text if there is none, or nothing in it."""
    closed = text.rstrip(" .,")
    for opening, closing in _BLOCKS:
        end = len(closed) - len(closing)
        if closed.endswith(closing) and (start := closed.rfind(opening, 0, end)) >= 0:
            block = _content(closed[start:end], opening)
            return block if _is_said(block) else text
    return text


def _content(block: str, opening: str) -> str:
    """A block without its opening. A fence's line may name a language."""
    return block.partition("\n")[2] if opening in ("```", "~~~") else block[len(opening) :]


def _says(line: str) -> bool:
    return _is_said(line) and not _DELIMITER.fullmatch(line.strip())


def _is_said(text: str) -> bool:
    return any(map(str.isalnum, text))


def _enclosed(text: str, opening: str, closing: str) -> str:
    """The text up to the bracket that closes the one before it."""
    depth = 1
    for at, char in enumerate(text):
        depth += (char == opening) - (char == closing)
        if depth == 0:
            return text[:at]
    return text


def _normal(answer: str) -> str:
    answer = " ".join((_bare(answer) or answer).casefold().replace("\u2212", "-").split())
    number = _THOUSANDS.sub("", answer)
    if _NUMBER.fullmatch(number):
        try:
            return str(Decimal(number).normalize() + 0)
        except InvalidOperation:
            return answer
    return answer


def _bare(answer: str) -> str:
    """The answer without what is around it and says nothing. What stands in backticks is code, and stays as it is."""
    for _ in range(_MOST_WRAPPERS):
        before = answer
        answer = _EXCLAIMED.sub("", answer.lstrip(_BEFORE).rstrip(_AFTER))
        if answer.startswith("`") and answer.endswith("`"):
            return answer.strip("`")
        answer = _unwrapped(answer)
        if answer == before:
            break
    return answer


def _unwrapped(answer: str) -> str:
    for opening, closing in _WRAPPERS:
        inner = answer[len(opening) : -len(closing)]
        if not (answer.startswith(opening) and answer.endswith(closing) and len(answer) > len(opening)):
            continue
        if opening != "(" and closing not in inner:
            return inner
        if opening == "(" and not _SEVERAL & set(inner) and _enclosed(answer[1:], "(", ")") == inner:
            return inner
    if answer[:1] == "[" and answer[1:-1].isalpha() and answer[-1:] == "]":  # [B]; but [5] is a list
        return answer[1:-1]
    if answer[-1:] == ")" and not (_SEVERAL | set("([]")) & set(answer):  # B), or (the answer is 5)
        return answer[:-1]
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
