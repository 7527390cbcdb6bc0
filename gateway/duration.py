"""How long is `24h`? Durations as people write them; pure."""

from __future__ import annotations

import re

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def seconds(text: str) -> float:
    """A duration in seconds.

    Raises:
        ValueError: the text is none; the message says so.
    """
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhdw])", text)
    if match is None:
        raise ValueError(f"{text!r} is no time like 90s, 30m, 24h, 7d or 2w")
    return float(match[1]) * _UNITS[match[2]]
