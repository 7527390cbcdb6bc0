"""Budget forcing on scripted streams: in whatever pieces they come, the caller reads one message within its budget."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.answer.assembly import assembled
from gateway.answer.forced import Cut, ForcedStream
from gateway.answer.thinking import Thinking
from gateway.events import Json, data_of, parse_object, split_events
from models.family import Reasoning
from tests.gateway.answer.test_thinking import EXACT, TRACE, cuts
from tests.gateway.fakes import USAGE, event

MARKS = Reasoning()
DONE = b"data: [DONE]\n\n"
ANSWER = "\n\nThe answer is 39."
CALL = {"index": 0, "id": "call-1", "type": "function", "function": {"name": "add", "arguments": '{"a": '}}
REST = {"index": 0, "function": {"arguments": "1}"}}


class Scripted:
    """A source of exactly these chunks."""

    relayed = False

    def __init__(self, chunks: list[bytes]) -> None:
        self.first_bytes, *self._chunks = chunks or [b""]
        self.closed = False

    async def read(self) -> bytes:
        assert not self.closed
        return self._chunks.pop(0) if self._chunks else b""

    def close(self) -> None:
        self.closed = True


def chunks_of(events: list[bytes], at: list[int]) -> list[bytes]:
    raw = b"".join(events)
    places = sorted({cut % (len(raw) + 1) for cut in at} | {0, len(raw)})
    return [raw[begin:end] for begin, end in itertools.pairwise(places)]


def first(field: str, thinking: str, answer: list[dict[str, Any]], *, fronted: bool = True) -> list[bytes]:
    """A response of one token an event, with its thinking in a field."""
    inline = field == "content"
    text = f"{MARKS.start if fronted else ''}{thinking}{MARKS.end}" if inline else thinking
    ends = [end for _, end in EXACT._encode(text).offsets]  # pyright: ignore[reportAttributeAccessIssue]
    pieces = [text[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    return [
        event({"role": "assistant", "content": ""}),
        *(event({field: piece}) for piece in pieces if piece),
        *(event(delta) for delta in answer),
        event({}, "stop"),
        event(usage=USAGE),
        DONE,
    ]


def second(*deltas: dict[str, Any], finish: str = "stop") -> list[bytes]:
    """A response of another request, which names itself otherwise."""
    usage = {"prompt_tokens": 160, "completion_tokens": 9, "total_tokens": 169}
    events = [event({"role": "assistant", "content": ""}), *map(event, deltas), event({}, finish), event(usage=usage)]
    return [one.replace(b"chatcmpl-1", b"chatcmpl-2").replace(b'"created":1', b'"created":2') for one in events] + [
        DONE
    ]


class Run:
    """One forced stream, read to its end."""

    def __init__(
        self,
        begin: list[bytes],
        further: list[bytes] | None,
        limit: int,
        *,
        at: list[int] | None = None,
        opened: bool = True,
        quotes: bool = False,
    ) -> None:
        self.cuts: list[Cut] = []
        self.restarts = 0
        self.source = Scripted(chunks_of(begin, at or []))
        self.next = None if further is None else Scripted(chunks_of(further, at or []))

        async def proceed(cut: Cut) -> Scripted | None:
            assert self.source.closed
            self.cuts.append(cut)
            return self.next

        def restarted() -> None:
            self.restarts += 1

        self.stream = ForcedStream(
            self.source,
            Thinking(EXACT, MARKS, limit, opened=opened),
            MARKS,
            count=EXACT.count,
            proceed=proceed,
            restarted=None if quotes else restarted,
        )
        self.raw = asyncio.run(self._read())
        self.events = [one for raw in split_events(self.raw)[0] if (one := parse_object(data_of(raw))) is not None]

    async def _read(self) -> bytes:
        raw = self.stream.first_bytes
        while chunk := await self.stream.read():
            raw += chunk
        return raw

    def text(self, field: str) -> str:
        return "".join(delta.get(field) or "" for delta in self.deltas)

    @property
    def deltas(self) -> list[Json]:
        return [choice["delta"] for one in self.events for choice in one["choices"]]

    @property
    def finish_reasons(self) -> list[str]:
        return [choice["finish_reason"] for e in self.events for choice in e["choices"] if choice["finish_reason"]]

    @property
    def usage(self) -> Json:
        (usage,) = [one["usage"] for one in self.events if one.get("usage")]
        return usage


def check_one_message(run: Run) -> None:
    assert run.raw.endswith(DONE)
    assert run.raw.count(b"[DONE]") == 1
    assert {(one["id"], one["created"], one["model"]) for one in run.events} == {("chatcmpl-1", 1, "abacus/base")}
    assert sum("role" in delta for delta in run.deltas) == 1
    assert len(run.finish_reasons) == 1


fields = st.sampled_from(["reasoning", "reasoning_content", "content"])


@given(field=fields, fronted=st.booleans(), at=cuts, limit=st.integers(0, 80))
def test_thinking_ends_at_its_budget_and_one_message_goes_on(
    field: str, fronted: bool, at: list[int], limit: int
) -> None:
    begin = first(field, TRACE, [{"content": ANSWER}], fronted=fronted)
    run = Run(begin, second({"content": ANSWER}), limit, at=at, opened=not fronted)
    if EXACT.count(TRACE) <= limit:
        assert run.raw == b"".join(begin)
        assert not run.cuts
        return
    check_one_message(run)
    (cut,) = run.cuts
    assert TRACE.startswith(cut.thinking)
    assert cut.tokens == EXACT.count(cut.thinking) <= limit
    if field == "content":
        front = MARKS.start if fronted else ""
        assert run.text("content") == f"{front}{cut.thinking}{MARKS.end}{ANSWER}"
    else:
        assert (run.text(field), run.text("content")) == (cut.thinking, ANSWER)
    assert run.finish_reasons == ["stop"]
    assert run.usage["completion_tokens"] == 9 + cut.tokens
    assert run.usage["prompt_tokens"] == 160 - cut.tokens - 1
    assert run.usage["completion_tokens_details"] == {"reasoning_tokens": cut.tokens}


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_what_a_reasoning_parser_takes_for_reasoning_behind_the_mark_is_the_answer(field: str) -> None:
    run = Run(first("reasoning", TRACE, []), second({field: "The answer"}, {field: " is 39."}), 10)
    assert run.text("content") == "The answer is 39."
    assert EXACT.count(run.text("reasoning")) == 10
    check_one_message(run)


def test_tool_calls_follow_whole() -> None:
    run = Run(
        first("reasoning", TRACE, []), second({"tool_calls": [CALL]}, {"tool_calls": [REST]}, finish="tool_calls"), 10
    )
    assert [delta["tool_calls"] for delta in run.deltas if "tool_calls" in delta] == [[CALL], [REST]]
    assert run.finish_reasons == ["tool_calls"]


def test_a_tool_call_behind_thinking_within_the_budget_is_never_cut() -> None:
    long = [{"tool_calls": [{**REST, "function": {"arguments": TRACE}}]}] * 20
    begin = first("reasoning", "1 + 2", [{"tool_calls": [CALL]}, *long])
    assert Run(begin, None, 16).raw == b"".join(begin)


@pytest.mark.parametrize("field", ["reasoning", "content"])
def test_an_engine_that_cannot_continue_leaves_the_thinking_within_its_budget(field: str) -> None:
    run = Run(first(field, TRACE, [{"content": ANSWER}]), None, 10)
    check_one_message(run)
    assert run.finish_reasons == ["length"]
    thinking = run.text(field).removeprefix(MARKS.start).removesuffix(MARKS.end)
    assert EXACT.count(thinking) == 10


@given(at=cuts)
def test_an_engine_that_thinks_again_is_stopped(at: list[int]) -> None:
    again = [{"content": piece} for piece in ("\n<th", "ink>", TRACE, MARKS.end, ANSWER)]
    run = Run(first("content", TRACE, []), second(*again), 10, at=at)
    check_one_message(run)
    assert (run.finish_reasons, run.restarts) == (["length"], 1)
    assert run.text("content") == f"{MARKS.start}{run.cuts[0].thinking}{MARKS.end}"


def test_an_end_mark_far_behind_shows_that_the_engine_started_over() -> None:
    run = Run(
        first("content", TRACE, []), second({"content": "12 + 35"}, {"content": MARKS.end}, {"content": ANSWER}), 10
    )
    assert (run.finish_reasons, run.restarts) == (["length"], 1)
    assert "The answer" not in run.text("content")


def test_a_mark_that_the_caller_wrote_may_be_in_the_answer() -> None:
    run = Run(first("content", TRACE, []), second({"content": f"{MARKS.end} ends it"}), 10, quotes=True)
    assert (run.finish_reasons, run.restarts) == (["stop"], 0)
    assert run.text("content").endswith("ends it")


def test_log_probabilities_go_with_their_text() -> None:
    def with_logprobs(field: str, tokens: list[str]) -> bytes:
        parsed = json.loads(event({field: "".join(tokens)})[6:])
        parsed["choices"][0]["logprobs"] = {"content": [{"token": token, "logprob": -0.5} for token in tokens]}
        return b"data: " + json.dumps(parsed).encode() + b"\n\n"

    ends = [end for _, end in EXACT._encode(TRACE).offsets]  # pyright: ignore[reportAttributeAccessIssue]
    tokens = [TRACE[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    begin = [event({"role": "assistant", "content": ""}), with_logprobs("reasoning", tokens)]
    further = second()
    further.insert(1, with_logprobs("content", ["The", " answer"]))
    run = Run(begin, further, 7)
    shown = [choice["logprobs"] for one in run.events for choice in one["choices"] if choice["logprobs"]]
    assert [[token["token"] for token in one["content"]] for one in shown] == [tokens[:7], ["The", " answer"]]
    response = json.loads(asyncio.run(assembled(Scripted([run.raw]), 10**6, 10**6)))
    assert [one["token"] for one in response["choices"][0]["logprobs"]["content"]] == [*tokens[:7], "The", " answer"]


def test_the_first_engine_is_released_before_the_second_request_and_the_second_at_the_end() -> None:
    run = Run(first("reasoning", TRACE, []), second({"content": ANSWER}), 10)
    assert run.source.closed
    assert run.next is not None
    assert not run.next.closed
    run.stream.close()
    assert run.next.closed


@given(junk=st.lists(st.binary(max_size=60), max_size=12), limit=st.integers(0, 10))
def test_whatever_an_engine_sends_is_passed_on_or_cut(junk: list[bytes], limit: int) -> None:
    events = [b"data: " + piece.replace(b"\n", b" ").replace(b"\r", b" ") + b"\n\n" for piece in junk]
    assert Run(events, None, limit).raw == b"".join(events)
