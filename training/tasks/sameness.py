"""When are two prompts the same question? If only white space, the case of words or a sentence's punctuation differ.

Everything that can change an answer counts: operators, signs, brackets, decimal points, factorials, single letters.
So `3+4` and `3-4` are two questions, and `What is 3 + 4?` and `what is 3+4` are one.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_ALIKE = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"),
        **dict.fromkeys("\u2018\u2019\u2032", "'"),
        **dict.fromkeys("\u201c\u201d", '"'),
        **dict.fromkeys("\u00b7\u00d7\u2217\u22c5", "*"),
        **dict.fromkeys("\u00f7\u2044", "/"),
    }
)
"""Characters that mean the same."""
_PUNCTUATION = re.compile(r"(?<![.,;:?])(?:(?<=\S)[.,;:]|\?)(?=\s|$|[\"')\]}$])")
"""What ends a sentence or a part of it: not the point of 1.5, nor the ellipsis of 0.333..."""
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


@lru_cache(maxsize=200_000)
def key(prompt: str) -> str:
    """A text that is equal for two prompts exactly if they are the same question; empty if a prompt asks nothing."""
    text = prompt
    if not text.isascii():
        text = unicodedata.normalize("NFC", prompt).translate(_ALIKE)
        text = _NOT_ASCII.sub(lambda match: "" if unicodedata.category(match[0]) == "Cf" else match[0], text)
    tokens = re.findall(r"\w+|[^\w\s]", _PUNCTUATION.sub(" ", text))
    return " ".join(token.lower() if len(token) > 1 else token for token in tokens)
