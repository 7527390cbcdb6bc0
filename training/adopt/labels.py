"""Which answers are right? Four ways to label them; only the first needs gold answers.

    gold         compares with the row's answer, as a number, a formula, a choice, JSON or words
    agreement    compares with what the reference level answers most often to the same request
    judge        asks a model behind an OpenAI-compatible API whether the answer is right
    command      runs a program of the user's for each answer

An answer that is empty or was cut off is wrong, whoever labels it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from training.tasks.verify import final_answer, is_correct, is_verifiable

METHODS = ("gold", "agreement", "judge", "command")
_CHOICE = re.compile(r"\(?([A-J])\)?[.:)]?")
_LAST_CHOICE = re.compile(r"(?:answer|choice|option)(?: is)?:?\s*\**\(?([A-J])\b", re.IGNORECASE)
_LAST_NUMBER = re.compile(r"-?\$?[0-9][0-9,]*(?:\.[0-9]+)?")


def is_right(text: str, gold: str) -> bool:
    """Whether an answer states the gold answer: a choice of A to J, JSON, or what `training.tasks.verify` compares.

    Where the answer states no final answer, its last number counts for a gold number, and its whole text for words.
    """
    wanted = gold.strip()
    if choice := _CHOICE.fullmatch(wanted):
        stated = _LAST_CHOICE.findall(text) or _CHOICE.findall(text.strip())[:1]
        return bool(stated) and stated[-1].upper() == choice[1]
    if (value := _json(wanted)) is not None:
        return _json(_unfenced(text)) == value
    if final_answer(text) is not None:
        return is_correct(text, wanted)
    numbers = _LAST_NUMBER.findall(text)
    if numbers and _LAST_NUMBER.fullmatch(wanted):
        return is_correct(f"The answer is {numbers[-1].replace('$', '')}", wanted)
    return _words(text) == _words(wanted)


def majority(texts: Sequence[str]) -> str | None:
    """The answer that most of these state; None if there is none, or no two agree among three or more.

    What is compared is the final answer where one is stated, else the last number, else the whole text.
    """
    stated = [answer for text in texts if (answer := stated_answer(text))]
    if not stated:
        return None
    groups: list[list[str]] = []
    for answer in stated:
        for group in groups:
            if same(answer, group[0]):
                group.append(answer)
                break
        else:
            groups.append([answer])
    best = max(groups, key=len)
    if len(texts) >= 3 and len(best) == 1:
        return None
    return Counter(best).most_common(1)[0][0]


def stated_answer(text: str) -> str:
    """What an answer comes to; an empty text for none."""
    if (final := final_answer(text)) is not None:
        return final
    if choices := _LAST_CHOICE.findall(text):
        return choices[-1].upper()
    if (value := _json(_unfenced(text))) is not None:
        return json.dumps(value, sort_keys=True)
    numbers = _LAST_NUMBER.findall(text)
    return numbers[-1] if numbers else _words(text)


def same(left: str, right: str) -> bool:
    """Whether two final answers are equal in any notation."""
    if left == right:
        return True
    return is_verifiable(right) and is_correct(f"\\boxed{{{left}}}", right)


def _json(text: str) -> Any:
    """The JSON object or list that a text is; None for anything else."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _unfenced(text: str) -> str:
    match = re.search(r"```(?:json)?\s*\n(.*?)\n\s*```", text, re.DOTALL)
    return match[1] if match else text


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))
