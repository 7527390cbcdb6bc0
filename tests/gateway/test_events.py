"""Line ends, events and JSON of engines, as they are read and written."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.events import (
    EVENT_END,
    EventBuffer,
    LineEnds,
    UnreadableError,
    encode_event,
    encode_json,
    line_of,
    parse_object,
    read_object,
    split_events,
)

ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])


@given(
    lines=st.lists(st.tuples(st.sampled_from([b"", b"data: 1", b": x", b"\xc3\xa9"]), ENDS)),
    cuts=st.lists(st.integers(0, 60)),
)
def test_line_ends_do_not_depend_on_how_the_stream_is_split(lines: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    raw = b"".join(line + end for line, end in lines)
    edges = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    ends = LineEnds()
    fed = b"".join([ends.feed(raw[a:b]) for a, b in pairwise(edges)])
    assert fed == LineEnds().feed(raw) == raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


@pytest.mark.parametrize("cut", range(6))
def test_a_byte_order_mark_is_left_out_however_it_is_split(cut: int) -> None:
    raw, ends = b"\xef\xbb\xbfdata: \xef\xbb\xbf", LineEnds()
    assert ends.feed(raw[:cut]) + ends.feed(raw[cut:]) == b"data: \xef\xbb\xbf"


def test_whoever_feeds_only_what_has_to_be_fed_gets_the_same() -> None:
    for pieces in ([b"\xef", b"\xbb\xbfa\n", b"b\r", b"\nc", b"\r", b"\r\nd", b"e"], [b"a\n", b"b\r\n"]):
        lazy, eager = LineEnds(), LineEnds()
        out = [lazy.feed(piece) if lazy.waits or b"\r" in piece else piece for piece in pieces]
        assert b"".join(out) == b"".join([eager.feed(piece) for piece in pieces])


@pytest.mark.parametrize("first", [b"\n", b"\r", b"\r\n"])
@pytest.mark.parametrize("second", [b"\n", b"\r", b"\r\n"])
def test_an_empty_line_ends_an_event_whatever_the_line_ends(first: bytes, second: bytes) -> None:
    if (first, second) != (b"\r", b"\n"):  # one line end
        assert EVENT_END.search(b"data: 1" + first + second) is not None
    assert EVENT_END.search(b"data: 1" + first + b"data: 2" + second) is None


def test_events_are_split_at_empty_lines() -> None:
    assert split_events(b"a\n\nb\nc\n\nd\n") == ([b"a\n\n", b"b\nc\n\n"], b"d\n")
    assert split_events(b"") == ([], b"")


@pytest.mark.parametrize(
    ("raw", "value", "exact"),
    [
        (b'{"a": 1}', {"a": 1}, True),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}, True),
        (b'{"a": NaN, "b": [-Infinity]}', {"a": None, "b": [None]}, False),
        (b'{"a": ' + b"9" * 5000 + b', "b": 2}', {"a": None, "b": 2}, False),
        (b'{"a": "\\ud800"}', {"a": "\ud800"}, True),
        (b"[1]", None, True),
        (b'{"a":' + b"[" * 100_000, None, False),
        (b'{"a"', None, False),
        (b'{"a": "\xff"}', None, False),
    ],
)
def test_an_object_is_read_or_it_is_none(raw: bytes, value: Any, exact: bool) -> None:
    assert parse_object(raw) == value
    assert read_object(raw) == (value, exact)


@given(st.binary(max_size=40))
def test_any_bytes_can_be_read(raw: bytes) -> None:
    read_object(raw)


def test_what_is_written_is_valid_json() -> None:
    assert encode_json({"a": float("nan"), "b": [float("inf"), 1.5]}) == b'{"a":null,"b":[null,1.5]}'
    assert encode_event({"a": "é\ud800"}) == b'data: {"a":"\\u00e9\\ud800"}\n\n'
    assert encode_event({"a": "é"}) == 'data: {"a":"é"}\n\n'.encode()
    deep: Any = {}
    for _ in range(100_000):
        deep = {"a": deep}
    with pytest.raises(UnreadableError):
        encode_json(deep)
    while deep:  # or freeing it would recurse as deep
        deep = deep.popitem()[1]


@pytest.mark.parametrize(
    ("value", "line"), [("stop", "stop"), ("st\ud800op", "st?op"), ("x" * 100, "x" * 64), (5, ""), (None, ""), ({}, "")]
)
def test_a_line_is_short_and_can_be_stored(value: Any, line: str) -> None:
    assert line_of(value, 64) == line
    json.dumps(line).encode()


@given(
    pieces=st.lists(
        st.sampled_from([b"data: 1", b"\n", b"\n\n", b"x", b"", b"data: [DONE]\n\n", b"\n\n\n"]), max_size=30
    )
)
def test_an_event_is_kept_until_its_end_has_come(pieces: list[bytes]) -> None:
    buffer, data, events = EventBuffer(), b"", b""
    for piece in pieces:
        data += piece
        complete = buffer.feed(piece)
        assert not complete or complete.endswith(b"\n\n")
        events += complete
        assert data.startswith(events)
        assert b"\n\n" not in data[len(events) :]
        assert buffer.size == len(data) - len(events)
    assert events + buffer.take() == data
    assert buffer.size == 0
