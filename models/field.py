"""What is a field called in a message of one line?"""

from __future__ import annotations

from collections.abc import Iterable


def path_of(loc: Iterable[int | str]) -> str:
    """Where pydantic found a fault, joined by dots; a file's keys may have line breaks, and this has none."""
    return " ".join(".".join(map(str, loc)).split())
