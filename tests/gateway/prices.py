"""A prices file for tests."""

from __future__ import annotations

from pathlib import Path

FILE = """
currency: USD
default: {per_million: {prompt: 1, cached: 0.1, reasoning: 3, answer: 2}}
checkpoints:
  base: {per_million: {prompt: 10, reasoning: 30, answer: 20}}
teams:
  research: {per_month: 0.05}
"""


def write_prices(directory: Path, text: str = FILE) -> Path:
    """The prices file in a directory."""
    file = directory / "prices.yaml"
    file.write_text(text)
    return file
