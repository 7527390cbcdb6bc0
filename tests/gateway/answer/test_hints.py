"""The events that must be read are found by a search that looks at each byte once for each hint."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.answer.hints import HINTS, Hints, found_hints

PIECES = st.lists(st.sampled_from([*HINTS, b"x", b"data: ", b"\n\n"]), max_size=20)


@given(pieces=PIECES, steps=st.lists(st.integers(0, 30)))
def test_the_next_hint_is_the_first_one_behind_the_position(pieces: list[bytes], steps: list[int]) -> None:
    events = b"".join(pieces)
    hints, at = Hints(events, found_hints(events)), 0
    for step in [0, *steps]:
        at += step
        positions = [found for hint in HINTS if (found := events.find(hint, at)) >= 0]
        assert hints.next(at) == min(positions, default=-1)


class Counted(bytes):
    """Bytes that know how many of them were searched."""

    searched = 0

    def find(self, hint: bytes, start: int = 0) -> int:  # type: ignore[override]
        at = super().find(hint, start)
        Counted.searched += (len(self) if at < 0 else at + len(hint)) - start
        return at


def test_each_byte_is_searched_once_for_each_hint() -> None:
    events = Counted(b'data: {"x": NaN}\n\n' * 1000)
    hints, at = Hints(events, found_hints(events)), 0
    while (found := hints.next(at)) >= 0:
        at = events.index(b"\n\n", found) + 2
    assert at == len(events)
    assert Counted.searched <= (len(HINTS) + 1) * len(events)
