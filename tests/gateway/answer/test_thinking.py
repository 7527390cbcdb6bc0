from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.answer import counting
from gateway.answer.counting import TokenCounter
from gateway.answer.thinking import Growing, Step, Thinking, torn_mark
from models.family import Reasoning
from tests.gateway.fakes import tokenizer

MARKS = Reasoning()
TRACE = "12 + 35 = 47; 47 - 8 = 39.\n\nLet me check: 35 - 8 = 27, 27 + 12 = 39. It matches. "


@pytest.fixture(scope="module")
def counter(family_dir: Path) -> TokenCounter:
    return counting.load(family_dir / "base" / "tokenizer.json")


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    at = sorted({cut % (len(text) + 1) for cut in cuts} | {0, len(text)})
    return [text[begin:end] for begin, end in itertools.pairwise(at)]


def exact() -> TokenCounter:
    made = tokenizer()
    made.encode_special_tokens = True

    def encode(text: str) -> Any:
        return made.encode(text, add_special_tokens=False)

    return TokenCounter(encode, lambda text: [end for _, end in encode(text).offsets])


EXACT, ROUGH = exact(), counting.rough()
counters = st.sampled_from([EXACT, ROUGH])
texts = st.text(st.sampled_from("12 +=.\nThe answer is → é😀<think>/"), max_size=200)
cuts = st.lists(st.integers(0, 10_000), max_size=40)


@given(counter=counters, text=texts, limit=st.integers(0, 60))
def test_a_prefix_has_no_more_tokens_than_allowed(counter: TokenCounter, text: str, limit: int) -> None:
    prefix = counter.prefix(text, limit)
    assert text.startswith(prefix)
    assert counter.count(prefix) <= limit
    assert prefix == text or counter.count(text) > limit


def test_a_prefix_ends_where_a_token_ends(counter: TokenCounter) -> None:
    tokens = counter.count(TRACE)
    prefixes = [counter.prefix(TRACE, limit) for limit in range(tokens + 1)]
    assert prefixes[0] == ""
    assert prefixes[-1] == TRACE
    assert [counter.count(prefix) for prefix in prefixes] == list(range(tokens + 1))


@given(counter=counters, text=texts, repeats=st.integers(1, 40), cuts=cuts, limit=st.integers(0, 3000))
def test_a_growing_text_exceeds_a_limit_as_soon_as_it_has_more_tokens(
    counter: TokenCounter, text: str, repeats: int, cuts: list[int], limit: int
) -> None:
    text *= repeats
    growing, grown = Growing(counter), ""
    for piece in pieces_of(text, cuts):
        growing.add(piece)
        grown += piece
        if growing.exceeds(limit):
            break
        assert counter.count(grown) <= limit
        growing.settle()
    prefix = growing.prefix(limit)
    assert grown.startswith(prefix)
    assert counter.count(prefix) <= limit
    if counter.count(grown) > limit:
        assert growing.exceeds(limit)


def steps(thinking: Thinking, field: str, pieces: list[str]) -> list[Step]:
    out: list[Step] = []
    for piece in pieces:
        out.append(thinking.add({field: piece}, finished=False))
        if out[-1] in (Step.ENDED, Step.EXCEEDED):
            break
    return out


@given(cuts=cuts, opened=st.booleans(), limit=st.integers(0, 80), thought=st.integers(0, 80))
def test_thinking_in_the_content_is_measured_however_it_is_split(
    cuts: list[int], opened: bool, limit: int, thought: int
) -> None:
    """With its start mark or, if the template wrote that, without."""
    text = TRACE[:thought]
    content = f"{'' if opened else MARKS.start}{text}{MARKS.end}\n\nThe answer is 39."
    thinking = Thinking(EXACT, MARKS, limit, opened=opened)
    last = steps(thinking, "content", pieces_of(content, cuts))[-1]
    if EXACT.count(text) <= limit:
        assert last is Step.ENDED
        assert thinking.opened_by_template is opened
    else:
        assert last is Step.EXCEEDED
        cut = thinking.within_limit()
        assert text.startswith(cut)
        assert EXACT.count(cut) <= limit
        assert thinking.front == ("" if opened else MARKS.start)


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_thinking_in_a_field_of_its_own_ends_with_the_answer(field: str) -> None:
    for ended in ({"content": "The"}, {"tool_calls": [{"index": 0}]}):
        thinking = Thinking(EXACT, MARKS, 30)
        assert thinking.add({"role": "assistant", "content": ""}, finished=False) is Step.GOES_ON
        assert thinking.add({"content": "\n"}, finished=False) is Step.UNCLEAR
        assert thinking.add({field: "1 + 2 = 3"}, finished=False) is Step.GOES_ON
        assert thinking.add(ended, finished=False) is Step.ENDED
        assert thinking.opened_by_template is False
        assert thinking.field == field


def test_thinking_beyond_the_limit_is_exceeded_even_in_the_last_event() -> None:
    thinking = Thinking(EXACT, MARKS, 3)
    assert thinking.add({"reasoning": TRACE, "content": "39"}, finished=True) is Step.EXCEEDED
    assert EXACT.count(thinking.within_limit()) == 3


def test_content_without_marks_is_an_answer_where_the_model_marks_its_thinking() -> None:
    thinking = Thinking(EXACT, MARKS, 3, opened=False)
    assert thinking.add({"content": "The answer is 39, as a long check shows."}, finished=False) is Step.ENDED
    assert Thinking(EXACT, MARKS, 3).add({"content": TRACE}, finished=False) is Step.EXCEEDED


def test_an_answer_that_comes_as_a_whole_without_marks_is_an_answer() -> None:
    assert Thinking(EXACT, MARKS, 3).add({"content": TRACE}, finished=True) is Step.ENDED


def test_within_its_tolerance_an_engine_may_still_end_the_thinking() -> None:
    text = EXACT.prefix(TRACE, 12)
    thinking = Thinking(EXACT, MARKS, 10, tolerance=4)
    assert thinking.add({"reasoning": text}, finished=False) is Step.UNCLEAR
    assert thinking.add({"content": "39"}, finished=False) is Step.ENDED
    thinking = Thinking(EXACT, MARKS, 10, tolerance=4)
    thinking.add({"reasoning": text}, finished=False)
    assert thinking.add({"reasoning": " and so on"}, finished=False) is Step.EXCEEDED
    assert EXACT.count(thinking.within_limit()) == 10


def test_the_beginning_of_a_mark_at_the_end_is_found() -> None:
    sizes = [torn_mark(text, "</think>") for text in ("abc", "abc<", "abc</thi", "a</think>", "</", "<<")]
    assert sizes == [0, 1, 5, 0, 2, 1]
