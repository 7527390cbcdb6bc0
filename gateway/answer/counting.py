"""How many tokens is this text? The family's own tokenizer as a `tiktoken.Encoding`, for where an engine reports none.

A byte-level BPE is merges over bytes. `tokenizer.json` writes each byte as a printable character; turned back into
bytes, the merges in their order are tiktoken's ranks, and the pre-tokenizer's regular expression is its pattern.
Nothing is downloaded. Exact for tokenizers whose pre-tokenizer is one `Split` by a regular expression that matches
every character, before `ByteLevel`, or `ByteLevel`'s own (GPT-2's). It counts text: the think markers and the end of
the turn, which an engine's own usage counts among the completion tokens, are no text.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import tiktoken

from models.family import FamilyError

_GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


class TokenCounter:
    """Counts tokens as the family's tokenizer makes them."""

    def __init__(self, encoding: tiktoken.Encoding, normalize: Callable[[str], str]) -> None:
        self.encoding = encoding
        self._normalize = normalize

    def count(self, text: str) -> int:
        """Tokens in a text; special tokens written out in it count as the characters they are."""
        return len(self.encoding.encode_ordinary(self._normalize(text))) if text else 0


def load(path: Path) -> TokenCounter:
    """Build the counter from a Hugging Face `tokenizer.json`.

    Raises:
        FamilyError: the file cannot be read, or is not a byte-level BPE of the kind described above.
    """
    try:
        raw = json.loads(path.read_text())
    except OSError as error:
        raise FamilyError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise FamilyError(f"{path}: not JSON ({error})") from None
    try:
        encoding = tiktoken.Encoding(
            path.parent.name, pat_str=_pattern(raw["pre_tokenizer"]), mergeable_ranks=_ranks(raw), special_tokens={}
        )
        return TokenCounter(encoding, _normalizer(raw.get("normalizer")))
    except (KeyError, TypeError, ValueError) as error:
        raise FamilyError(f"{path}: not a byte-level BPE that can be counted with: {error}") from None


def _ranks(raw: dict[str, Any]) -> dict[bytes, int]:
    """The 256 bytes, then every merge's outcome in the order of the merges."""
    model = raw["model"]
    if model["type"] != "BPE" or model.get("ignore_merges"):
        raise ValueError("the model is not a BPE that merges by rank")
    characters = _byte_characters()
    ranks = {bytes([byte]): byte for byte in range(256)}
    for merge in cast("list[str | list[str]]", model["merges"]):
        pair = "".join(merge.split(" ") if isinstance(merge, str) else merge)
        ranks.setdefault(bytes(characters[character] for character in pair), len(ranks))
    return ranks


def _pattern(pre: dict[str, Any]) -> str:
    steps: list[dict[str, Any]] = pre["pretokenizers"] if pre["type"] == "Sequence" else [pre]
    *splits, last = steps
    if last["type"] != "ByteLevel" or last.get("add_prefix_space"):
        raise ValueError("its pre-tokenizer does not end in ByteLevel without a prefix space")
    if not splits and last.get("use_regex", True):
        return _GPT2
    if len(splits) != 1 or last.get("use_regex", True) or splits[0]["type"] != "Split":
        raise ValueError("its pre-tokenizer is not one Split before ByteLevel(use_regex=false)")
    (split,) = splits
    if split["behavior"] != "Isolated" or split.get("invert"):
        raise ValueError("its pre-tokenizer's Split must isolate what its pattern finds")
    return split["pattern"]["Regex"]


def _normalizer(raw: dict[str, Any] | None) -> Callable[[str], str]:
    if raw is None:
        return str
    form = raw["type"]
    if form not in ("NFC", "NFD", "NFKC", "NFKD"):
        raise ValueError(f"its normalizer {form} is not known")
    return lambda text: unicodedata.normalize(form, text)


def _byte_characters() -> dict[str, int]:
    """GPT-2's alphabet: the printable bytes stand for themselves, the others for characters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
