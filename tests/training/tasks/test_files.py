"""Questions from files: how they are read and split, and how unusable files are reported."""

import json
from itertools import islice

import pytest

from training.config import Data
from training.errors import StageError
from training.tasks import files
from training.tasks.source import questions


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def gsm8k(tmp_path):
    rows = [
        {"question": f"Ann has {n} pens and buys {n}. How many?", "answer": f"{2 * n}\n#### {2 * n}"} for n in range(99)
    ]
    lines(tmp_path / "train.jsonl", rows)
    held_out = [*rows[:2], {"question": "Bo had 1,000 pens. How many?", "answer": "All.\n#### 1,000"}]
    lines(tmp_path / "test.jsonl", held_out)
    return tmp_path


@pytest.fixture
def math(tmp_path):
    rows = [
        {"problem": f"Simplify {n}/8.", "answer": rf"\frac{{{n}}}{{8}}", "difficulty": float(n % 3)} for n in range(80)
    ]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    solved = {"problem": "What is 1+1?", "solution": r"It is \boxed{2}.", "level": "Level 1"}
    (tmp_path / "test.json").write_text(json.dumps([solved]))
    return tmp_path


def test_a_gsm8k_answer_follows_four_hashes(gsm8k):
    by_split = files.read("gsm8k", gsm8k)
    assert by_split["heldout"][-1].answer == "1000"
    assert {q.answer for q in by_split["train"]} <= {str(2 * n) for n in range(99)}


def test_math_levels_are_difficulties_and_an_answer_can_be_boxed_in_the_solution(math):
    by_split = files.read("math", math)
    assert [(q.answer, q.difficulty) for q in by_split["heldout"]] == [("2", "level 1")]
    assert {q.difficulty for q in by_split["train"]} == {"level 0", "level 1", "level 2"}


def test_a_held_out_question_is_not_trained_on_even_if_the_training_file_has_it(gsm8k):
    by_split = files.read("gsm8k", gsm8k)
    prompts = {split: {q.prompt for q in rows} for split, rows in by_split.items()}
    assert not prompts["train"] & prompts["heldout"]
    assert not prompts["validation"] & prompts["heldout"]
    assert not prompts["validation"] & prompts["train"]
    assert sum(map(len, prompts.values())) == 100


def test_the_words_of_a_question_decide_its_split(tmp_path):
    rows = [{"prompt": f"Say {n}.", "answer": str(n), "difficulty": "easy"} for n in range(200)]
    before = files.read("jsonl", lines(tmp_path / "mine.jsonl", rows))
    respelled = [{**row, "prompt": row["prompt"].upper()} for row in reversed(rows)]
    after = files.read("jsonl", lines(tmp_path / "other.jsonl", respelled))
    for split, drawn in before.items():
        assert {q.answer for q in drawn} == {q.answer for q in after[split]}
        assert len(drawn) > 5


def test_a_question_stays_in_the_split_that_it_has_always_been_in(tmp_path):
    rows = [{"prompt": f"Say {n}.", "answer": str(n)} for n in range(30)]
    by_split = files.read("jsonl", lines(tmp_path / "mine.jsonl", rows))
    assert {q.answer for q in by_split["validation"]} == {"7", "23", "24", "25", "27"}
    assert {q.answer for q in by_split["heldout"]} == {"3", "6", "16"}


def test_rows_without_a_difficulty_share_one(tmp_path):
    rows = [{"prompt": f"Say {n}.", "answer": n} for n in range(100)]
    assert files.read("jsonl", lines(tmp_path / "mine.jsonl", rows))["train"][0].difficulty == "all"


def test_no_question_repeats_before_all_have_been_drawn(gsm8k):
    pool = files.read("gsm8k", gsm8k)["train"]
    order = list(islice(files.shuffled(pool, 1), 2 * len(pool)))
    assert set(order[: len(pool)]) == set(order[len(pool) :]) == set(pool)
    assert order[: len(pool)] == list(islice(files.shuffled(pool, 1), len(pool)))
    assert order[: len(pool)] != list(islice(files.shuffled(pool, 2), len(pool)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no questions for the train split"),
        ('{"prompt": "a"}\n', "line 1: answer is missing"),
        ('{"prompt": "a", "answer": [1]}\n', "line 1: answer must be text"),
        ('{"prompt": "a", "answer": 1}\nnot json\n', "line 2: not JSON"),
        ("[1, 2]\n", "line 1: must be an object"),
        ('{"prompt": "a", "answer": NaN}\n', "line 1: answer must be text or a number, got NaN"),
        ("[" * 100_000 + "\n", "line 1: not JSON"),
    ],
)
def test_an_unusable_file_is_reported_with_its_line_and_field(tmp_path, text, message):
    path = tmp_path / "mine.jsonl"
    path.write_text(text)
    with pytest.raises(StageError, match=message) as caught:
        files.read("jsonl", path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_newlines_end_a_row(tmp_path):
    """Strings may contain other line breaks unescaped."""
    rows = (json.dumps({"prompt": f"one\u2028two\u0085{i}", "answer": i}, ensure_ascii=False) for i in range(60))
    (tmp_path / "mine.jsonl").write_text("\n".join(rows))
    assert "\u2028" in (tmp_path / "mine.jsonl").read_text()
    assert sum(map(len, files.read("jsonl", tmp_path / "mine.jsonl").values())) == 60


def test_a_missing_file_and_a_gsm8k_row_without_hashes_are_named(tmp_path):
    with pytest.raises(StageError, match=r"test\.json is missing"):
        files.read("gsm8k", tmp_path)
    lines(tmp_path / "test.jsonl", [{"question": "q", "answer": "5"}])
    with pytest.raises(StageError, match=r"test\.jsonl, line 1: answer must end with a line"):
        files.read("gsm8k", tmp_path)


def test_the_instruction_follows_each_question(gsm8k):
    [question] = questions(Data(task="gsm8k", path=gsm8k, instruction="Box it."), "heldout", 0, 1)
    assert question.prompt.endswith("\nBox it.")


def test_only_training_questions_may_repeat(gsm8k):
    data = Data(task="gsm8k", path=gsm8k)
    assert len(questions(data, "train", 0, 500)) == 500
    with pytest.raises(StageError, match="3 questions in the heldout split; the recipe needs 4"):
        questions(data, "heldout", 0, 4)


def test_an_unverifiable_answer_is_reported_or_skipped(tmp_path):
    rows = [{"prompt": f"Say {n}.", "answer": "" if n % 2 else str(n)} for n in range(100)]
    path = lines(tmp_path / "mine.jsonl", rows)
    with pytest.raises(StageError, match=r"cannot be verified, '', of the question 'Say"):
        questions(Data(task="jsonl", path=path), "train", 0, 40)
    drawn = questions(Data(task="jsonl", path=path, skip_unverifiable=True), "train", 0, 40)
    assert len(drawn) == 40
    assert all(q.answer for q in drawn)


def test_a_file_without_verifiable_answers_is_rejected(tmp_path):
    path = lines(tmp_path / "mine.jsonl", [{"prompt": f"Say {n}.", "answer": ""} for n in range(100)])
    with pytest.raises(StageError, match="0 questions"):
        questions(Data(task="jsonl", path=path, skip_unverifiable=True), "train", 0, 4)
