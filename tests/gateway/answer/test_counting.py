from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from gateway.answer import counting
from gateway.answer.counting import TokenCounter
from models.family import FamilyError

TRACE = "12 + 35 = 47; 47 - 8 = 39.\n\nLet me check: 35 - 8 = 27, 27 + 12 = 39. It matches.\n\nThe answer is 39."
WORDS = r"\p{L}+|\s+|[^\s\p{L}]+"


def in_json(family_dir: Path) -> Path:
    return family_dir / "base" / "tokenizer.json"


@pytest.fixture(scope="module")
def counter(family_dir: Path) -> TokenCounter:
    return counting.load(in_json(family_dir))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiktoken encoding of the bytes and three merges."""
    path = tmp_path_factory.mktemp("ranks") / "small.tiktoken"
    tokens = [*(bytes([byte]) for byte in range(256)), b"ab", b"abc", "é".encode()]
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)))
    return path


def test_a_trace_is_counted_as_the_engine_counts_it(family_dir: Path, counter: TokenCounter) -> None:
    assert counter.count(TRACE) == len(Tokenizer.from_file(str(in_json(family_dir))).encode(TRACE).ids) > 40
    assert counter.count("") == 0


@pytest.mark.parametrize("special", ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
def test_special_tokens_written_in_a_text_are_its_characters(counter: TokenCounter, special: str) -> None:
    assert counter.count(special) > 3
    assert counter.count(f"a{special}b") == counter.count("a") + counter.count(special) + counter.count("b")


def test_what_the_file_does_for_training_is_left_out(family_dir: Path, tmp_path: Path, counter: TokenCounter) -> None:
    tokenizer = Tokenizer.from_file(str(in_json(family_dir)))
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=100)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert counting.load(tmp_path / "tokenizer.json").count(TRACE) == counter.count(TRACE)


def test_a_rank_file_is_counted_with_its_pattern(ranks: Path) -> None:
    count = counting.load(ranks, WORDS).count
    assert [count(text) for text in ("", "a", "ab", "abc", "abcab", "ab cab", "é", "ab<|endoftext|>")] == [
        0, 1, 1, 1, 2, 4, 1, 14,
    ]  # fmt: skip
    assert counting.load(ranks, ".").count("abc") == 3, "nothing merges across what the pattern cuts"


@given(st.text(st.characters()))
def test_any_text_counts_for_something_and_for_no_more_than_its_bytes(
    counter: TokenCounter, ranks: Path, text: str
) -> None:
    for count in (counter.count, counting.load(ranks, WORDS).count):
        assert bool(text) <= count(text) <= len(text.encode(errors="replace"))


def test_half_a_surrogate_pair_is_counted_as_something(counter: TokenCounter, ranks: Path) -> None:
    assert counter.count("a\ud800b") == counting.load(ranks, WORDS).count("a\ud800b") == 3


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b'{"model": {"type": "WordPiece"}}', b"YQ== 0\n", b"\xff"])
def test_what_is_no_tokenizer_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "tokenizer"
    file.write_bytes(content)
    for pattern in (None, WORDS):
        with pytest.raises(FamilyError) as refused:
            counting.load(file, pattern)
        assert str(refused.value).startswith(str(file))
        assert "\n" not in str(refused.value)


def test_a_pattern_that_is_no_regular_expression_and_a_missing_file_are_refused(ranks: Path, tmp_path: Path) -> None:
    with pytest.raises(FamilyError):
        counting.load(ranks, "(")
    with pytest.raises(FamilyError, match="cannot be read"):
        counting.load(tmp_path / "missing")


def test_a_long_text_is_counted_by_pieces_and_nearly_right(family_dir: Path) -> None:
    """Every other request waits for a count, so what it takes is bounded."""
    tokenizer = Tokenizer.from_file(str(in_json(family_dir)))
    read: list[int] = []

    def encode(text: str) -> list[int]:
        read.append(len(text))
        return tokenizer.encode(text).ids

    text = "".join(f"{TRACE} {number}" for number in range(3000))
    assert len(text) > 8 * counting.EXACT_CHARACTERS
    count = TokenCounter(encode, lambda text: []).count(text)
    assert sum(read) <= counting.EXACT_CHARACTERS
    assert count == pytest.approx(len(tokenizer.encode(text).ids), rel=0.05)
