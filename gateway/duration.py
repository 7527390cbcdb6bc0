"""How long is `24h`, and when was `2027-01-15`? Parses durations and moments as people write them. No I/O."""

from __future__ import annotations

import re
from datetime import UTC, datetime

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


def moment(text: str, now: float) -> float:
    """Parse a moment, and return it in Unix seconds.

    Args:
        text: a duration before `now`, a day such as 2027-01-15, or a time of ISO 8601; in UTC unless it says otherwise.
        now: in Unix seconds.

    Raises:
        ValueError: the text is neither; the message is one line.
    """
    try:
        return max(0.0, now - seconds(text))
    except ValueError:
        pass
    try:
        when = datetime.fromisoformat(text)
        return max(0.0, (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a moment such as 24h, 30d, 2027-01-15 or 2027-01-15T08:00Z") from None
