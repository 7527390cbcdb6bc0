"""What of a dialogue does its last user turn refer to? The turns before it that its difficulty is read with; pure.

"Yes, do that" looks easy by itself. So the user turns before it are taken, the latest first, up to one of at least
`SUBSTANTIAL_CHARACTERS`: that is most likely what a short follow-up is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SUBSTANTIAL_CHARACTERS = 80
MAX_TURNS = 4
"""So many turns before the last one are read at most."""


@dataclass(frozen=True)
class Dialogue:
    """What is known of a chat besides its last user turn."""

    turns: int = 1
    """User turns, the last one included."""
    tool_results: int = 0
    context: tuple[str, ...] = ()
    """The user turns that the last one is read with, in their order; empty for a single turn."""


def dialogue_of(messages: Sequence[tuple[str, str | None]]) -> Dialogue:
    """The dialogue of messages, each a role and its text; None for what cannot be read as text."""
    turns = [text for role, text in messages if role == "user"]
    tool_results = sum(role in ("tool", "function") for role, _ in messages)
    context: list[str] = []
    for text in turns[-2 : -2 - MAX_TURNS : -1]:
        if text is None:
            continue
        context.append(text)
        if len(text) >= SUBSTANTIAL_CHARACTERS:
            break
    return Dialogue(len(turns), tool_results, tuple(reversed(context)))
