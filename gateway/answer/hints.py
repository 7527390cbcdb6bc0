"""Where in a stream are the events that the relay must read? A search for a few words: it touches bytes only."""

from __future__ import annotations

_FIELD_HINTS = (b'"usage"', b'"finish_reason":"', b'"finish_reason": "', b'"error"')
_CAPITAL_HINTS = ((b"N", (b"[DONE]", b"NaN")), (b"I", (b"Infinity",)))
"""Hints by a letter that they have: most events lack it, and one letter is found many times faster than a word."""
HINTS = (*_FIELD_HINTS, *(hint for _, hints in _CAPITAL_HINTS for hint in hints))
"""An event without one of these says nothing that the relay must know. To find them is faster than any expression."""


def found_hints(events: bytes) -> list[tuple[int, bytes]]:
    """Where each hint is first in some events, and the hint."""
    found = [(at, hint) for hint in _FIELD_HINTS if (at := events.find(hint)) >= 0]
    for letter, hints in _CAPITAL_HINTS:
        if (first := events.find(letter)) >= 0:
            start = max(0, first - len(b"[DO"))  # no hint has more before its letter
            found += [(at, hint) for hint in hints if (at := events.find(hint, start)) >= 0]
    return found


class Hints:
    """Where the hints are in some events. Each byte is searched once for each hint, however many there are."""

    def __init__(self, events: bytes, found: list[tuple[int, bytes]]) -> None:
        """`found` is where each hint is first, and the hint."""
        self._events, self._positions = events, found

    def next(self, start: int) -> int:
        """The position of the next hint from `start` on; -1 if there is none."""
        if not self._positions:
            return -1
        if any(at < start for at, _ in self._positions):
            found = [(at if at >= start else self._events.find(hint, start), hint) for at, hint in self._positions]
            self._positions = [(at, hint) for at, hint in found if at >= 0]
        return min(self._positions)[0] if self._positions else -1
