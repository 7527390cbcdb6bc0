"""How many tokens does a text have? Counted with the family's tokenizer where the engine reports no count.

The tokenizer is a `tokenizer.json`, or a tiktoken rank file for models that publish one, such as Kimi. A rank file
lacks the regular expression that splits the text, so the manifest has it. Without either, tokens are estimated from the
text's length. Nothing is downloaded. Only text is counted: an engine's `completion_tokens` also include the end-of-turn
token.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence, Sized
from pathlib import Path

import tiktoken
from tokenizers import Encoding, Tokenizer

from models.family import MAX_TOKENIZER_BYTES, FamilyError
from models.field import one_line
from models.files import read_bounded

EXACT_CHARACTERS = 32_768
"""About 8,000 tokens, which take 10 to 40 ms to count."""
PIECES = 16
BYTES_PER_TOKEN = 4


class TokenCounter:
    """Counts tokens with the family's tokenizer."""

    def __init__(self, encode: Callable[[str], Sized], ends: Callable[[str], Sequence[int]]) -> None:
        """
        Args:
            encode: returns a text's tokens.
            ends: returns where each of them ends in the text, in characters.
        """
        self._encode, self._ends = encode, ends

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

    def prefix(self, text: str, tokens: int) -> str:
        """Return the beginning of `text` that ends with a token and has at most so many."""
        if tokens <= 0:
            return ""
        if self.count(text) <= tokens:
            return text
        for end in reversed(self._ends(_valid(text))[:tokens]):
            if self.count(text[:end]) <= tokens:  # a text's beginning may be split in another way than the text
                return text[:end]
        return ""

    def _count(self, text: str) -> int:
        return len(self._encode(_valid(text))) if text else 0


def _valid(text: str) -> str:
    """The text with as many characters, without half surrogate pairs: they cannot be encoded."""
    return text.encode(errors="replace").decode()


def rough() -> TokenCounter:
    """A counter for families without a tokenizer: a token for every four bytes, as in English text."""
    return TokenCounter(lambda text: range(math.ceil(len(text.encode()) / BYTES_PER_TOKEN)), _rough_ends)


def _rough_ends(text: str) -> list[int]:
    """Where every four bytes end; a character that is torn belongs to the next four."""
    ends: list[int] = []
    size = 0
    for at, character in enumerate(text):
        size += len(character.encode())
        if size > BYTES_PER_TOKEN * (len(ends) + 1):
            ends.append(at)
    return [*ends, len(text)]


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
        return TokenCounter(*(_tokenizer(data) if pattern is None else _encoding(path.stem, data, pattern)))
    except Exception as error:  # noqa: BLE001 - tokenizers raises nothing narrower
        raise FamilyError(f"{path}: not a tokenizer that can be counted with: {one_line(str(error))}") from None


_Encoder = tuple[Callable[[str], Sized], Callable[[str], Sequence[int]]]


def _tokenizer(data: bytes) -> _Encoder:
    tokenizer = Tokenizer.from_buffer(data)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True

    def encode(text: str) -> Encoding:
        return tokenizer.encode(text, add_special_tokens=False)

    return encode, lambda text: [end for _, end in encode(text).offsets]


def _encoding(name: str, data: bytes, pattern: str) -> _Encoder:
    ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, data.splitlines())}
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise ValueError(f"byte {missing[0]} has no rank")
    encoding = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})

    def ends(text: str) -> list[int]:
        starts = encoding.decode_with_offsets(encoding.encode_ordinary(text))[1]
        return [*starts[1:], len(text)]

    return encoding.encode_ordinary, ends
