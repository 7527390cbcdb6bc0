"""Is this answer right? Reads the final answer out of a completion and compares it with the gold answer."""

from __future__ import annotations

import re

from math_verify import parse, verify

_STATED = re.compile(r"answer is:?\s*(-?[\d.,]*\d)", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")


def final_answer(text: str) -> str | None:
    """The last answer the text states (`The answer is N`, else the last `\\boxed{N}`); None where it states none."""
    stated = _STATED.findall(text) or _BOXED.findall(text)
    return stated[-1].strip() if stated else None


def is_correct(text: str, gold: str) -> bool:
    """True where the final answer in `text` equals `gold`, however it is written: 1,234 = 1234 = 1234.0."""
    stated = final_answer(text)
    if stated is None:
        return False
    if stated == gold:
        return True
    if stated.lstrip("-").isdigit() and gold.lstrip("-").isdigit():
        return int(stated) == int(gold)
    # No time-outs: they use signals, which only a main thread may set, and what we parse is one short number.
    return bool(
        verify(
            parse(f"${gold}$", parsing_timeout=None), parse(f"${stated}$", parsing_timeout=None), timeout_seconds=None
        )
    )
