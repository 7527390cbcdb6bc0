from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from gateway.answer import counting
from gateway.answer.counting import TokenCounter
from models.family import FamilyError

TRACE = "12 + 35 = 47; 47 - 8 = 39.\n\nLet me check: 35 - 8 = 27, 27 + 12 = 39. It matches.\n\nThe answer is 39."


@pytest.fixture(scope="module")
def reference(family_dir: Path) -> Tokenizer:
    return Tokenizer.from_file(str(family_dir / "base" / "tokenizer.json"))


@pytest.fixture(scope="module")
def counter(family_dir: Path) -> TokenCounter:
    return counting.load(family_dir / "base" / "tokenizer.json")


pieces = st.sampled_from(
    ["What is ", "the answer", " 12", "\n\n", "\n", "  ", "check", "ab", "é", "日本", "🙂", "٣", "\u0301"]
)
texts = st.text(st.characters(exclude_categories=["Cs"])) | st.lists(pieces).map("".join)


@given(texts)
def test_it_cuts_text_exactly_as_the_familys_tokenizer(reference: Tokenizer, counter: TokenCounter, text: str) -> None:
    ours = counter.encoding.encode_ordinary(text)
    theirs = reference.encode(text, add_special_tokens=False)
    lengths = [len(counter.encoding.decode_single_token_bytes(token)) for token in ours]
    assert len(theirs.ids) == len(ours) == counter.count(text)
    # Each character stands for one byte in a byte-level vocabulary.
    assert [len(token) for token in theirs.tokens] == lengths


def test_a_trace_is_counted(reference: Tokenizer, counter: TokenCounter) -> None:
    assert counter.count(TRACE) == len(reference.encode(TRACE).ids) > 40
    assert counter.count("") == 0


def test_half_a_surrogate_pair_is_counted_as_something(counter: TokenCounter) -> None:
    assert counter.count("a\ud800b") > 0


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits"}, {"type": "ByteLevel"}]}},
        {"normalizer": {"type": "Lowercase"}},
        {"model": {"type": "WordPiece"}},
    ],
)
def test_a_tokenizer_of_another_kind_is_refused_in_one_line(
    family_dir: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    raw = json.loads((family_dir / "base" / "tokenizer.json").read_text())
    changed = tmp_path / "tokenizer.json"
    changed.write_text(json.dumps(raw | change))
    with pytest.raises(FamilyError) as refused:
        counting.load(changed)
    assert str(refused.value).startswith(str(changed))
    assert "\n" not in str(refused.value)


def test_a_missing_or_broken_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken").write_text("{")
    for name in ("missing", "broken"):
        with pytest.raises(FamilyError):
            counting.load(tmp_path / name)
