"""How long is `24h`? Parses durations as people write them. No I/O."""

from __future__ import annotations

import re

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def seconds(text: str) -> float:
    """Parse a duration, and return it in seconds.

    Raises:
        ValueError: the text is not a duration; the message is one line.
    """
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhdw])", text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration such as 90s, 30m, 24h, 7d or 2w")
    return float(match[1]) * _UNITS[match[2]]
