"""Conversations about GSM8K problems: every turn's answer is right."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from benchmarks.followups import LARGEST, MAX_TURNS, answer_of, conversations, turns_of

ROWS = [{"question": f"Problem {number}?", "answer": f"Thus ... #### {number}"} for number in range(50)]


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("so 3 + 4 = <<3+4=7>>7\n#### 7", 7),
        ("#### 1,250", 1250),
        ("-12", -12),
        ("1/2", None),
        ("x", None),
        (None, None),
    ],
)
def test_an_answer_is_a_whole_number_or_none(answer: Any, number: int | None) -> None:
    assert answer_of({"answer": answer}) == number


def test_each_follow_up_computes_with_the_answer_before_it() -> None:
    turns = turns_of("How many?", 10, random.Random(1), MAX_TURNS)
    assert turns[0] == {"text": "How many?", "answer": "10"}
    for before, turn in itertools.pairwise(turns):
        last, number = int(before["answer"]), int("".join(filter(str.isdigit, turn["text"])))
        by_words = {
            "Now add": last + number, "Take": last - number, "And": last * number, "How far": abs(last - number),
            "Yes": last + 2 * number,
        }  # fmt: skip
        (expected,) = [value for words, value in by_words.items() if turn["text"].startswith(words)]
        assert int(turn["answer"]) == expected
        assert abs(expected) <= LARGEST


def test_conversations_are_reproducible_and_about_different_problems() -> None:
    held = list(conversations(ROWS, 40))
    assert held == list(conversations(ROWS, 40))
    assert len({turns[0]["text"] for turns in held}) == len(held) == 40
    assert {len(turns) for turns in held} <= set(range(1, MAX_TURNS + 1))
    assert len(list(conversations(ROWS, 100))) == 50
