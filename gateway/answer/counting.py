"""How many tokens is this text? Asked of the family's own tokenizer, where an engine reports none.

That is a `tokenizer.json`, or a tiktoken rank file where a model publishes its encoding as one, as Kimi does. The file
does not say the regular expression that text is cut by, so the family's manifest does. Nothing is downloaded. It counts
text: the end of the turn, which an engine's own usage counts among the completion tokens, is no text.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sized
from pathlib import Path

import tiktoken
from tokenizers import Tokenizer

from models.family import FamilyError


class TokenCounter:
    """Counts tokens as the family's tokenizer makes them."""

    def __init__(self, encode: Callable[[str], Sized]) -> None:
        self._encode = encode

    def count(self, text: str) -> int:
        """Tokens in a text; special tokens written out in it count as the characters they are."""
        if not text:
            return 0
        return len(self._encode(text.encode(errors="replace").decode()))  # half a surrogate pair cannot be encoded


def load(path: Path, pattern: str | None = None) -> TokenCounter:
    """Build the counter from a `tokenizer.json` or, where there is a pattern, from a rank file.

    Raises:
        FamilyError: the file cannot be read, or is neither.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FamilyError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        return TokenCounter(_tokenizer(data) if pattern is None else _encoding(path.stem, data, pattern))
    except Exception as error:  # noqa: BLE001 - tokenizers raises nothing narrower
        raise FamilyError(f"{path}: not a tokenizer that can be counted with: {error}") from None


def _tokenizer(data: bytes) -> Callable[[str], Sized]:
    tokenizer = Tokenizer.from_buffer(data)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return lambda text: tokenizer.encode(text, add_special_tokens=False)


def _encoding(name: str, data: bytes, pattern: str) -> Callable[[str], Sized]:
    ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, data.splitlines())}
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise ValueError(f"byte {missing[0]} has no rank")
    return tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={}).encode_ordinary
