"""What can be seen of a text without understanding it? Its length, its sentences, its kind of question, its symbols.

`TEXT` names what a linear reader of the profile weighs (`models.reader`). Everything takes linear time on any text.
"""

from __future__ import annotations

import re
import zlib
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

_WORD = re.compile(r"[^\W\d_]+")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")
# No match may scan the same text from each of its characters: matching takes linear time on any prompt.
_CHOICE = re.compile(r"^[ \t]*+\(?[A-Ja-j1-9][.):]\s", re.MULTILINE)
_ITEM = re.compile(r"^[ \t]*+[-*•]\s", re.MULTILINE)
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_CALL = re.compile(r"(?<!\w)[A-Za-z_]\w*+\(")
LONG_WORD = 7
"""Letters from which a word is long."""
WORDS: dict[str, frozenset[str]] = {
    name: frozenset(words.split())
    for name, words in {
        "asks_for_a_fact": "what which who whom whose when where",
        "asks_for_a_number": "many much total altogether sum average difference remaining left",
        "asks_why_or_how": "why how explain describe discuss compare reason",
        "asks_for_work": "write create implement list summarize translate rewrite generate draft design",
        "asks_for_a_proof": "prove show derive solve find compute calculate evaluate determine simplify",
        "negations": "not no never none except without cannot neither nor unless",
        "conditions": "if unless otherwise suppose assume given provided whether when",
        "comparisons": "more less fewer than most least greater larger smaller older younger taller longer",
        "multiples": "half third quarter twice double triple times fourth fifth dozen percent fraction ratio",
        "rates": "each every per apiece rate speed average hourly daily weekly",
        "times": "second minute hour day week month year seconds minutes hours days weeks months years",
        "sequence": "first then next after before finally later again until last",
        "mathematics": "integer function equation polynomial triangle angle circle matrix prime vector area sequence",
        "code": "def return class import function void int string array algorithm python java sql code loop",
    }.items()
}
_KINDS_OF = {
    word: tuple(kind for kind, words in enumerate(WORDS.values()) if word in words)
    for word in frozenset[str]().union(*WORDS.values())
}
TEXT = (
    "characters",
    "words",
    "sentences",
    "words_a_sentence",
    "letters_a_word",
    "long_words",
    "different_words",
    "last_sentence",
    "numbers",
    "different_numbers",
    "longest_number",
    "decimals",
    "percents",
    "money",
    "slashes",
    "equals",
    "operators",
    "questions",
    "commas",
    "quotes",
    "lines",
    "choices",
    "items",
    "commands",
    "calls",
    "braces",
    "backticks",
    "capitals",
    "other_scripts",
    *WORDS,
)
"""The names of the features, in order. Counts are log(1 + count), shares as they are."""


def text_of(prompt: str) -> Vector:
    """Every feature of a prompt, (len(TEXT),)."""
    words = _WORD.findall(prompt)
    lower = [word.lower() for word in words]
    letters = sum(map(len, words))
    numbers = _NUMBER.findall(prompt)
    ends = [match.end() for match in _SENTENCE_END.finditer(prompt)]
    sentences = max(len(ends), 1)
    last = prompt[ends[-2] :] if len(ends) > 1 else prompt
    count, some = prompt.count, max(len(words), 1)
    counts = (
        len(prompt),
        len(words),
        sentences,
        len(words) / sentences,
        letters / some,
        sum(len(word) >= LONG_WORD for word in words),
        len(set(lower)),
        len(last),
        len(numbers),
        len(set(numbers)),
        max(map(len, numbers), default=0),
        sum("." in number for number in numbers),
        count("%"),
        count("$") + count("€") + count("£"),
        count("/"),
        count("="),
        count("+") + count("*") + count("^") + count("<") + count(">"),
        count("?"),
        count(","),
        count('"') + count("“"),
        count("\n"),
        len(_CHOICE.findall(prompt)),
        len(_ITEM.findall(prompt)),
        len(_COMMAND.findall(prompt)),
        len(_CALL.findall(prompt)),
        count("{") + count("["),
        count("`"),
        sum(word[0].isupper() for word in words),
    )
    shares = (sum(not word.isascii() for word in words) / some,)
    kinds = [0] * len(WORDS)
    for word in lower:
        for kind in _KINDS_OF.get(word, ()):
            kinds[kind] += 1
    return np.concatenate([np.log1p(counts), shares, np.log1p(kinds)])


def ngrams_of(prompt: str, buckets: int) -> tuple[NDArray[np.intp], Vector]:
    """Where a prompt's words and pairs of words fall among so many buckets, and how much each weighs.

    Returns:
        different buckets, and 1 + log of how often each is hit, of length 1 together.
    """
    words = [word.lower() for word in _WORD.findall(prompt)]
    grams = words + [f"{one} {other}" for one, other in pairwise(words)]
    hits: dict[int, int] = {}
    for gram in grams:
        bucket = zlib.crc32(gram.encode()) % buckets
        hits[bucket] = hits.get(bucket, 0) + 1
    weights = 1.0 + np.log(np.array(list(hits.values()), dtype=np.float64))
    return np.array(list(hits), dtype=np.intp), weights / max(float(np.sqrt(weights @ weights)), 1e-12)
