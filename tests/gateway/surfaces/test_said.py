"""Most events are read without a JSON parser. Whatever an engine sends, that changes nothing that the caller gets."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.surfaces import completions, said
from gateway.surfaces.completions import CompletionStream
from gateway.surfaces.messages_out import MessageStream
from gateway.surfaces.responses_out import ResponseStream
from gateway.surfaces.said import piece_of

STREAMS: dict[str, Callable[[], Callable[[bytes], bytes]]] = {
    "messages": lambda: MessageStream().feed,
    "responses": lambda: ResponseStream({"model": "abacus", "input": "x"}).feed,
    "completions": lambda: CompletionStream().feed,
}
DELTAS = st.dictionaries(st.sampled_from(["reasoning", "reasoning_content", "content"]), st.text(), max_size=2)
MORE = st.dictionaries(st.sampled_from(["usage", "error", "logprobs"]), st.none() | st.just({}), max_size=2)


def event(delta: Any, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
    chunk = {"id": 'chatcmpl-"7"', "created": 1, "model": "abacus/base", "choices": [choice], **more}
    return b"data: " + json.dumps(chunk, separators=(",", ":"), ensure_ascii=False).encode(errors="replace") + b"\n\n"


def read(stream: Callable[[bytes], bytes], events: list[bytes]) -> list[Any]:
    """What the stream says, each event parsed; bytes that no parser reads stay as they are."""
    out = b"".join(map(stream, [*events, b"data: [DONE]\n\n"]))
    said: list[Any] = []
    for line in out.split(b"\n"):
        try:
            said.append(json.loads(line.removeprefix(b"data: ")))
        except ValueError:
            said.append(line)
    return said


def slowly(stream: Callable[[], Callable[[bytes], bytes]], events: list[bytes]) -> list[Any]:
    with pytest.MonkeyPatch.context() as patched:
        for module in (said, completions):
            patched.setattr(module, "piece_of", lambda _: None)
        return read(stream(), events)


@pytest.mark.parametrize("name", STREAMS)
@given(chunks=st.lists(st.tuples(DELTAS, MORE), max_size=8))
@example(
    chunks=[({"content": 'a"\\\n\u2028\x7f'}, {}), ({"content": "\U0001f600"}, {}), ({"reasoning": "b"}, {"usage": {}})]
)
def test_every_stream_says_the_same_with_and_without_the_short_way(name: str, chunks: list[tuple[Any, Any]]) -> None:
    events = [event({"role": "assistant"}), *(event(delta, **more) for delta, more in chunks)]
    assert read(STREAMS[name](), events) == slowly(STREAMS[name], events)


@pytest.mark.parametrize("name", STREAMS)
@given(text=st.binary(max_size=12))
def test_any_bytes_where_a_text_should_be_are_read_alike(name: str, text: bytes) -> None:
    torn = event({"content": "@"}).replace(b'"@"', b'"' + text.replace(b"\n", b"") + b'"')
    events = [event({"role": "assistant"}), event({"content": "a"}), torn, event({"content": "b"})]
    assert read(STREAMS[name](), events) == slowly(STREAMS[name], events)


def test_plain_pieces_are_read_the_short_way_and_nothing_else() -> None:
    piece = piece_of(event({"content": ' "3"'}))
    assert piece is not None
    assert (piece.is_reasoning, json.loads(piece.text)) == (False, ' "3"')
    assert piece_of(event({"reasoning": "Hm."})) is not None
    for other in (
        event({"content": "3"}, usage={"prompt_tokens": 1}),
        event({"content": "3", "reasoning": "Hm."}),
        event({"content": ""}),
        event({"content": None}),
        b": comment\n\n",
        event({"content": "3"}).replace(b"data: ", b"event: x\ndata: "),
    ):
        assert piece_of(other) is None
