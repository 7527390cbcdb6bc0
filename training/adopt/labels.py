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

from training.tasks.answer import LONGEST
from training.tasks.stated import closing_number
from training.tasks.verify import final_answer, is_correct, is_verifiable, same_answer

METHODS = ("gold", "agreement", "judge", "command")
_LAST_CHOICE = re.compile(r"(?:answer|choice|option)(?: is)?:?\s*\**\(?([A-J])\b", re.IGNORECASE)


def is_right(text: str, gold: str) -> bool:
    """Whether an answer states the gold answer: as JSON, as `training.tasks.verify` judges, or in words."""
    wanted = gold.strip()
    if (value := _json(wanted)) is not None and _json(_unfenced(text)) == value:
        return True
    if isinstance(value, dict):
        return False
    return is_correct(text, wanted) or (bool(_words(wanted)) and _words(text) == _words(wanted))


def is_comparable(gold: str) -> bool:
    """Whether an answer may be found right: gold is JSON, or not longer than the answers that are compared."""
    return len(gold.strip()) <= LONGEST or _json(gold.strip()) is not None


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
    return closing_number(text) or _words(text)


def same(left: str, right: str) -> bool:
    """Whether two final answers are equal in any notation."""
    if left == right:
        return True
    return is_verifiable(right) and same_answer(left, right)


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
