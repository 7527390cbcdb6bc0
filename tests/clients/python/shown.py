"""What do the programs of this directory share? The question, the tool, and how to show an error and what was seen."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

QUESTION = "What is easy 1 + 2?"
URL = sys.argv[1]


class Total(BaseModel):
    """The object to ask for."""

    total: int


def add(a: int, b: int) -> str:
    """Adds two numbers."""
    return str(a + b)


def caught(call: Callable[[], object]) -> dict[str, str]:
    """The name and the message of the error that a call must end with."""
    try:
        call()
    except Exception as error:  # noqa: BLE001
        return {"name": type(error).__name__, "message": str(error)}
    raise AssertionError("nothing was refused")


def show(**seen: Any) -> None:
    print(json.dumps({name: value for name, value in seen.items() if value is not None}))
