"""What a response cost, by what was relayed and what was reported."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.answer import counting
from gateway.answer.cost import Cost, Terms, cost_of, is_plausible
from gateway.answer.counting import TokenCounter
from gateway.answer.transcript import Transcript
from gateway.answer.usage import TokenUsage
from gateway.ledger import entry as entries
from models.family import Reasoning
from tests.gateway.entries import entry
from tests.gateway.fakes import COMPLETION, USAGE, event

CONTEXT = 1024
REASONING, ANSWER = "1 + 2 = 3", "The answer is 3."


@pytest.fixture(scope="module")
def counter(family_dir: Path) -> TokenCounter:
    return counting.load(family_dir / "base" / "tokenizer.json")


@pytest.fixture(scope="module")
def terms(counter: TokenCounter) -> Terms:
    return Terms(counter, Reasoning(), lambda: "prompt", context_tokens=CONTEXT)


def response(response: dict[str, Any] = COMPLETION) -> Transcript:
    transcript = Transcript()
    transcript.add_response(response)
    return transcript


def message(finish: str = "stop", **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": fields, "finish_reason": finish}]}


def streamed(*deltas: dict[str, Any], finish: str | None = "stop") -> Transcript:
    transcript = Transcript()
    for delta in deltas:
        transcript.add_events(event(delta))
    if finish is not None:
        transcript.add_events(event({}, finish))
    return transcript


def usage(prompt: Any = 17, generated: Any = 25, reasoning: Any = 9) -> dict[str, Any]:
    total = prompt + generated if isinstance(prompt, int) and isinstance(generated, int) else None
    details = {"reasoning_tokens": reasoning}
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": total,
            "completion_tokens_details": details}  # fmt: skip


def test_reported_figures_are_kept(terms: Terms) -> None:
    cost = cost_of(USAGE, response(), terms)
    assert cost.usage is USAGE
    assert cost == Cost(USAGE, TokenUsage(prompt=17, reasoning=4, answer=5), "reported", answered=True)


def test_a_plausible_stream_is_neither_parsed_nor_counted(terms: Terms, monkeypatch: pytest.MonkeyPatch) -> None:
    transcript = streamed(*[{"reasoning": "so 1"}] * 20, *[{"content": "and 2"}] * 20)
    monkeypatch.setattr(Transcript, "_parse_events", None)
    cost = cost_of(usage(17, 41, 20), transcript, replace(terms, counter=TokenCounter(None, None)))  # pyright: ignore[reportArgumentType]
    assert cost == Cost(usage(17, 41, 20), TokenUsage(17, 20, 21), "reported", answered=True)


@pytest.mark.parametrize("details", [{}, {"completion_tokens_details": None}, {"completion_tokens_details": {"x": 1}}])
def test_unreported_reasoning_tokens_are_counted(counter: TokenCounter, terms: Terms, details: dict[str, Any]) -> None:
    cost = cost_of({"prompt_tokens": 17, "completion_tokens": 30, **details}, response(), terms)
    thought = counter.count(REASONING)
    assert cost.usage["completion_tokens_details"]["reasoning_tokens"] == thought
    assert (cost.tokens, cost.counting) == (TokenUsage(17, thought, 30 - thought), "repaired")


NO_FIGURES = [-1, 10**30, 10**399, 10**9, 12.5, math.nan, math.inf, -math.inf, "12", None, True, [], {}, [12], {"a": 1}]


@pytest.mark.parametrize("value", NO_FIGURES, ids=lambda value: repr(value)[:12])
def test_what_is_no_figure_is_counted(counter: TokenCounter, terms: Terms, value: Any) -> None:
    prompt, thought, answer = (counter.count(text) for text in ("prompt", REASONING, ANSWER))
    everything = cost_of(usage(value, value, value), response(), terms)
    assert (everything.tokens, everything.counting) == (TokenUsage(prompt, thought, answer), "counted")
    assert everything.usage == usage(prompt, thought + answer, thought)
    one = cost_of(usage(17, value, 9), response(), terms)
    assert (one.tokens.prompt, one.tokens.reasoning + one.tokens.answer) == (17, thought + answer)
    assert one.counting == "repaired"


def test_whole_floats_are_whole_numbers(terms: Terms) -> None:
    cost = cost_of(usage(17.0, 25.0, 9.0), response(), terms)
    assert (cost.tokens, cost.counting) == (TokenUsage(17, 9, 16), "repaired")
    assert all(type(cost.usage[name]) is int for name in ("prompt_tokens", "completion_tokens", "total_tokens"))


@pytest.mark.parametrize("reported", [{}, [], "x", 5, None])
def test_without_usage_everything_is_counted(counter: TokenCounter, terms: Terms, reported: Any) -> None:
    cost = cost_of(reported, response(), terms)
    prompt, thought, answer = (counter.count(text) for text in ("prompt", REASONING, ANSWER))
    assert (cost.tokens, cost.counting) == (TokenUsage(prompt, thought, answer), "counted")


@pytest.mark.parametrize("reasoning", [0, 1])
def test_too_few_reasoning_tokens_beside_relayed_thinking_are_counted(
    counter: TokenCounter, terms: Terms, reasoning: int
) -> None:
    thinking = [{"reasoning": f" {number} + 2"} for number in range(10)]
    thought = counter.count("".join(delta["reasoning"] for delta in thinking))
    cost = cost_of(usage(17, 60, reasoning), streamed(*thinking, {"content": ANSWER}), terms)
    assert (cost.tokens, cost.counting) == (TokenUsage(17, thought, 60 - thought), "repaired")
    assert cost.usage["completion_tokens_details"]["reasoning_tokens"] == thought
    whole = message(reasoning="".join(delta["reasoning"] for delta in thinking), content=ANSWER)
    assert cost_of(usage(17, 60, reasoning), response(whole), terms).tokens.reasoning == thought


def test_no_reasoning_tokens_beside_white_space_are_believed(terms: Terms) -> None:
    reported = usage(17, 9, 0)
    assert cost_of(reported, response(message(reasoning="\n", content=ANSWER)), terms).counting == "reported"
    assert cost_of(reported, streamed({"reasoning": "\n"}, {"content": ANSWER}), terms).counting == "reported"


def test_more_reasoning_than_completion_tokens_is_repaired(counter: TokenCounter, terms: Terms) -> None:
    cost = cost_of(usage(17, 64, 79), response(), terms)
    thought = counter.count(REASONING)
    assert (cost.tokens, cost.counting) == (TokenUsage(17, thought, 64 - thought), "repaired")


@pytest.mark.parametrize("generated", [0, 2])
def test_a_completion_that_the_text_cannot_be_is_counted(counter: TokenCounter, terms: Terms, generated: int) -> None:
    cost = cost_of(usage(17, generated, 0), response(message(content=ANSWER * 3)), terms)
    assert cost.tokens == TokenUsage(17, 0, counter.count(ANSWER * 3))


def test_reasoning_that_an_engine_hides_is_believed(terms: Terms) -> None:
    hidden = usage(17, 500, 480)
    assert cost_of(hidden, response(message(content=ANSWER)), terms).usage is hidden
    assert cost_of(hidden, streamed({"content": ANSWER}), terms).usage is hidden
    beyond = cost_of(usage(17, 5000, 4800), response(message(content=ANSWER)), terms)
    assert beyond.tokens.reasoning == 0


def test_tokens_that_leave_no_text_are_believed(terms: Terms) -> None:
    """Such as special tokens of a model that may not end (`ignore_eos`), or thinking that was summed up."""
    assert cost_of(usage(17, 900, 500), response(), terms).counting == "reported"
    assert (
        cost_of(usage(17, 900, 500), streamed({"reasoning": REASONING}, {"content": ANSWER}), terms).counting
        == "reported"
    )


def test_a_wrong_total_is_recomputed(terms: Terms) -> None:
    cost = cost_of({**USAGE, "total_tokens": 9}, response(), terms)
    assert (cost.usage, cost.counting) == (USAGE, "repaired")


def test_details_that_are_no_figures_are_left_out(terms: Terms) -> None:
    cost = cost_of({**USAGE, "prompt_tokens_details": {"cached_tokens": -5, "audio_tokens": 3}}, response(), terms)
    assert cost.usage["prompt_tokens_details"] == {"audio_tokens": 3}


def test_tokens_of_a_discarded_answer_are_neither_doubted_nor_lost(counter: TokenCounter, terms: Terms) -> None:
    escalated = replace(terms, discarded=lambda: 300)
    assert cost_of(usage(17, 325, 9), response(), escalated).counting == "reported"
    thought, answer = counter.count(REASONING), counter.count(ANSWER)
    assert cost_of(None, response(), escalated).tokens == TokenUsage(counter.count("prompt"), thought, answer + 300)


@pytest.mark.parametrize(
    ("finish", "fields", "answered"),
    [
        ("stop", {"reasoning": REASONING, "content": ANSWER}, True),
        ("length", {"reasoning": REASONING, "content": "The ans"}, True),
        ("length", {"reasoning": REASONING, "content": None}, False),
        ("length", {"reasoning": REASONING, "content": "\n\n"}, False),
        ("stop", {"content": ""}, False),
        ("stop", {}, False),
        ("error", {"content": ANSWER}, False),
        ("length", {"content": "<think>1 + 2"}, False),
        ("tool_calls", {"content": None, "tool_calls": [{"function": {"name": "add", "arguments": "{}"}}]}, True),
        ("stop", {"content": [{"type": "text", "text": ANSWER}]}, True),
        ("stop", {"content": [{"type": "thinking", "thinking": REASONING}]}, False),
    ],
)
@pytest.mark.parametrize("reported", [None, "near"])
def test_whether_there_is_an_answer(
    terms: Terms, finish: str, fields: dict[str, Any], answered: bool, reported: Any
) -> None:
    figures = usage(17, 25, 9 if "reasoning" in fields else 0) if reported else None
    assert cost_of(figures, response(message(finish, **fields)), terms).answered is answered
    assert cost_of(figures, streamed(fields, finish=finish), terms).answered is answered


def test_every_choice_needs_an_answer(terms: Terms) -> None:
    two = {"choices": [{"index": 0, "message": {"content": "3"}}, {"index": 1, "message": {"content": ""}}]}
    assert not cost_of(None, response(two), replace(terms, choices=2)).answered
    two["choices"][1]["message"]["content"] = "4"
    assert cost_of(None, response(two), replace(terms, choices=2)).answered


def test_running_figures_are_plausible_or_not(terms: Terms) -> None:
    assert is_plausible({}, terms)
    assert is_plausible(USAGE, terms)
    assert is_plausible({"prompt_tokens": 17, "completion_tokens": 2}, terms)
    assert not any(is_plausible(usage(17, value, 0), terms) for value in NO_FIGURES)
    assert not is_plausible(usage(17, 9, 10), terms)


FIGURE = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(0, 2000), st.floats(), st.text(max_size=3), st.lists(st.none())
)
FIELDS = ("prompt_tokens", "completion_tokens", "total_tokens", "completion_tokens_details", "prompt_tokens_details")
DETAILS = FIGURE | st.dictionaries(st.sampled_from(["reasoning_tokens", "cached_tokens", "x"]), FIGURE)
TEXTS = st.fixed_dictionaries(
    {}, optional={name: st.text(max_size=50) | FIGURE for name in ("reasoning", "content", "reasoning_content")}
)


@given(
    reported=FIGURE | st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, DETAILS)),
    deltas=st.lists(TEXTS, max_size=5),
    finish=st.sampled_from(["stop", "length", None]),
    thinks=st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_said_the_cost_can_be_recorded(
    terms: Terms, reported: Any, deltas: list[dict[str, Any]], finish: str | None, thinks: bool
) -> None:
    text = "".join(str(value) for delta in deltas for value in delta.values())
    cost = cost_of(reported, streamed(*deltas, finish=finish), replace(terms, thinks=thinks))
    tokens, shown = cost.tokens, cost.usage
    bound = CONTEXT + 4 * len(text)
    assert all(type(value) is int and 0 <= value <= bound for value in (tokens.prompt, tokens.reasoning, tokens.answer))
    assert shown["prompt_tokens"] == tokens.prompt
    assert shown["completion_tokens"] == tokens.reasoning + tokens.answer
    assert shown["total_tokens"] == tokens.prompt + tokens.reasoning + tokens.answer
    assert shown["completion_tokens_details"]["reasoning_tokens"] == tokens.reasoning
    recorded = entry(prompt_tokens=tokens.prompt, reasoning_tokens=tokens.reasoning, answer_tokens=tokens.answer,
                     counting=cost.counting, answered=cost.answered)  # fmt: skip
    assert entries.parse(entries.dump(recorded)) == recorded


def test_counted_figures_are_in_range_too(terms: Terms) -> None:
    """An engine that sends more than the request can have, without a usage; and a prompt beyond the context."""
    long = message(content="39 " * 9000, reasoning="1 + 2 " * 9000)
    cost = cost_of(None, response(long), replace(terms, max_tokens=100, prompt=lambda: "1 + 2 " * 9000))
    assert cost.counting == "counted"
    assert cost.tokens.prompt == CONTEXT
    assert cost.tokens.reasoning + cost.tokens.answer <= 100
    assert cost.usage["completion_tokens"] <= 100
