"""How many tokens does a text have? Counted with the family's tokenizer where the engine reports no count.

The tokenizer is a `tokenizer.json`, or a tiktoken rank file for models that publish one, such as Kimi. A rank file
lacks the regular expression that splits the text, so the manifest has it. Without either, tokens are estimated from the
text's length. Nothing is downloaded. Only text is counted: an engine's `completion_tokens` also include the end-of-turn
token.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sized
from pathlib import Path

import tiktoken
from tokenizers import Tokenizer

from models.family import MAX_TOKENIZER_BYTES, FamilyError
from models.field import one_line
from models.files import read_bounded

EXACT_CHARACTERS = 32_768
"""About 8,000 tokens, which take 10 to 40 ms to count."""
PIECES = 16
BYTES_PER_TOKEN = 4


class TokenCounter:
    """Counts tokens with the family's tokenizer."""

    def __init__(self, encode: Callable[[str], Sized]) -> None:
        self._encode = encode

    def count(self, text: str) -> int:
        """Return the number of tokens in `text`. The text of a special token counts as ordinary characters.

        Of a longer text than `EXACT_CHARACTERS`, pieces are counted and the number is extrapolated: every other request
        waits for a count.
        """
        if len(text) <= EXACT_CHARACTERS:
            return self._count(text)
        size = EXACT_CHARACTERS // PIECES
        starts = [number * (len(text) - size) // (PIECES - 1) for number in range(PIECES)]
        pieces = [text[start : start + size] for start in starts]
        return round(sum(map(self._count, pieces)) * len(text) / (PIECES * size))

    def _count(self, text: str) -> int:
        # Half a surrogate pair cannot be encoded.
        return len(self._encode(text.encode(errors="replace").decode())) if text else 0


def rough() -> TokenCounter:
    """A counter for families without a tokenizer: a token for every four bytes, as in English text."""
    return TokenCounter(lambda text: range(math.ceil(len(text.encode()) / BYTES_PER_TOKEN)))


def load(path: Path, pattern: str | None = None) -> TokenCounter:
    """Build the counter from a `tokenizer.json`, or from a tiktoken rank file if a pattern is given.

    Raises:
        FamilyError: the file cannot be read, or is not such a file.
    """
    try:
        data = read_bounded(path, MAX_TOKENIZER_BYTES)
    except OSError as error:
        raise FamilyError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        return TokenCounter(_tokenizer(data) if pattern is None else _encoding(path.stem, data, pattern))
    except Exception as error:  # noqa: BLE001 - tokenizers raises nothing narrower
        raise FamilyError(f"{path}: not a tokenizer that can be counted with: {one_line(str(error))}") from None


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
