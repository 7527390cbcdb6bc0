"""Rows that cannot be used are refused by name, or skipped and counted; repeats are used once."""

import json
from pathlib import Path

import pytest

from training import config
from training.errors import StageError
from training.tasks import files, source

GPU_RECIPES = [
    path
    for path in sorted(Path("training/recipes").glob("*.yaml"))
    if path.stem not in ("abacus", "qwen2.5-coder-0.5b")
]
GOOD = [{"prompt": f"Say {n}.", "answer": str(n)} for n in range(60)]


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def kept(path, **settings):
    """The answers that are left, and what was said."""
    said: list[str] = []
    by_split = files.read("jsonl", path, say=said.append, **settings)
    return {q.prompt: q.answer for questions in by_split.values() for q in questions}, said


UNUSABLE = [
    ({"prompt": "Say x.", "answer": None}, "answer is null", "no answer"),
    ({"prompt": "Say x."}, "answer is missing", "no answer"),
    ({"prompt": "Say x.", "answer": ""}, "answer cannot be verified, ''", "no answer"),
    ({"prompt": "Say x.", "answer": " \n"}, "answer cannot be verified", "no answer"),
    ({"prompt": "Say x.", "answer": float("nan")}, "answer must be text or a number, got NaN", "no answer"),
    ({"prompt": "Say x.", "answer": ["5"]}, "answer must be text or a number, got ..5", "no answer"),
    ({"prompt": "Say x.", "answer": True}, "answer must be text or a number, got true", "no answer"),
    ({"prompt": "Say x.", "answer": "?"}, "answer cannot be verified, '.'", "an answer that cannot be verified"),
    ({"prompt": "Say x.", "answer": "7" * 400}, "answer cannot be verified", "an answer that cannot be verified"),
    ({"prompt": "", "answer": "5"}, "the question is empty", "no question"),
    ({"prompt": " \u00a0\n", "answer": "5"}, "the question is empty", "no question"),
    ({"prompt": None, "answer": "5"}, "prompt is null", "no question"),
    ({"answer": "5"}, "prompt is missing", "no question"),
    ({"prompt": [{"role": "user"}], "answer": "5"}, "prompt must be text or a number", "no question"),
    ({"prompt": "Say \ud800.", "answer": "5"}, "prompt has half of a surrogate pair", "no question"),
]


@pytest.mark.parametrize(("row", "message", "kind"), UNUSABLE)
def test_an_unusable_row_is_refused_by_name_or_skipped_and_counted(tmp_path, row, message, kind):
    path = written(tmp_path / "mine.jsonl", [*GOOD, row, *GOOD[:0]])
    with pytest.raises(StageError, match=rf"mine\.jsonl, line 61: .*{message}") as caught:
        kept(path)
    assert "or skip such rows with data.skip_unverifiable: true" in str(caught.value)
    left, said = kept(path, skip_unverifiable=True)
    assert len(left) == 60
    assert said == [f"{path}: 1 of 61 rows skipped: 1 row (61) with {kind}"]


def test_a_question_that_repeats_with_the_same_answer_is_used_once_and_said(tmp_path):
    again = [{"prompt": "say  3", "answer": "3.0"}, {"prompt": "Say 4.", "answer": "4"}]
    path = written(tmp_path / "mine.jsonl", [*GOOD, *again])
    left, said = kept(path)
    assert left == {row["prompt"]: row["answer"] for row in GOOD}
    assert said == [f"{path}: 2 rows (61 and 62) that repeat a question and its answer: used once"]


def test_contradicting_answers_are_refused_by_name_or_all_rows_of_the_question_skipped(tmp_path):
    again = [{"prompt": "Say 3.", "answer": "4"}, {"prompt": "Say 3.", "answer": "3"}]
    path = written(tmp_path / "mine.jsonl", [*GOOD, *again])
    with pytest.raises(
        StageError, match=r"line 61: the same question as in line 4, but another answer, '4' instead of '3'"
    ) as caught:
        kept(path)
    assert "data.skip_unverifiable" in str(caught.value)
    left, said = kept(path, skip_unverifiable=True)
    assert len(left) == 59
    assert "Say 3." not in left
    contradicted = "3 rows (4, 61 and 62) with another answer than the same question has in another row"
    assert said == [f"{path}: 3 of 62 rows skipped: {contradicted}"]


def test_rows_that_differ_by_an_operator_are_all_used(tmp_path):
    rows = [
        {"prompt": f"{a}{sign}{b}", "answer": eval(f"{a}{sign}{b}")}
        for a in range(20, 30)
        for b in range(10)
        for sign in "+-*"
    ]
    left, said = kept(written(tmp_path / "mine.jsonl", rows))
    assert len(left) == 300
    assert not said


def in_gsm8k(tmp_path, train, test):
    for name, prompts in (("train", train), ("test", test)):
        written(tmp_path / f"{name}.jsonl", [{"question": prompt, "answer": "#### 1"} for prompt in prompts])
    said: list[str] = []
    return files.read("gsm8k", tmp_path, say=said.append), said


def test_a_training_question_of_the_test_file_is_not_trained_on_and_that_is_said(tmp_path):
    train = [f"Say {n}+1." for n in range(60)]
    by_split, said = in_gsm8k(tmp_path, train, ["say 3 + 1", "Say 4+1.", "Other."])
    assert len(by_split["train"]) + len(by_split["validation"]) == 58
    assert len(by_split["heldout"]) == 3
    leaked = f"2 rows (4 and 5) with a question that is in {tmp_path / 'test.jsonl'}, too"
    assert said == [f"{tmp_path / 'train.jsonl'}: {leaked}: kept for the test, not trained on"]


def test_training_questions_that_differ_from_test_questions_by_an_operator_are_trained_on(tmp_path):
    train = [f"{n}+4" for n in range(100)]
    by_split, said = in_gsm8k(tmp_path, train, [f"{n}-4" for n in range(100)])
    assert len(by_split["train"]) + len(by_split["validation"]) == 100
    assert not said


def test_if_nothing_is_left_the_reasons_are_counted(tmp_path):
    path = written(tmp_path / "mine.jsonl", [{"prompt": f"Say {n}.", "answer": None} for n in range(100)])
    with pytest.raises(StageError, match=r"0 questions are left, without 100 rows \(1, 2, .* and others\) with no ans"):
        kept(path, skip_unverifiable=True)


def as_math_is(directory):
    """Files with what is in MATH's own: null and empty answers, repeats, levels, and questions that look alike."""
    rows = [{"problem": f"Simplify {n}/8.", "answer": rf"\frac{{{n}}}{{8}}", "difficulty": 3.0} for n in range(4000)]
    rows[886]["answer"] = rows[1009]["answer"] = None
    rows[3328]["answer"] = ""
    rows[957] = {**rows[923], "type": "Algebra"}
    rows += [
        {"problem": rf"Compute $\sin {sign}60^\circ.$", "answer": f"{sign}1", "difficulty": None} for sign in ("", "-")
    ]
    (directory / "train.json").write_text(json.dumps(rows))
    test = [{"problem": f"Find {n}.", "answer": str(n), "difficulty": 1.0, "unique_id": str(n)} for n in range(500)]
    (directory / "math500.json").write_text(json.dumps(test))


@pytest.mark.parametrize("path", GPU_RECIPES, ids=lambda path: path.stem)
def test_every_gpu_recipe_reads_files_like_math_s_and_says_once_what_it_skips(tmp_path, capsys, path):
    as_math_is(tmp_path)
    recipe = config.load(path)
    data = recipe.data.model_copy(update={"path": tmp_path})
    count = recipe.family.steps * recipe.family.prompts_per_step
    assert len(source.questions(data, "train", 1, count)) == count
    assert len(source.questions(data, "heldout", 1, 500)) == 500
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"data: {tmp_path / 'train.json'}: 3 of 4,002 rows skipped: 3 rows (887, 1010 and 3329) with no answer",
        f"data: {tmp_path / 'train.json'}: 1 row (958) that repeat a question and its answer: used once",
    ]


def test_without_skipping_math_s_null_answer_is_named_with_the_setting(tmp_path):
    as_math_is(tmp_path)
    data = config.Data(task="math", path=tmp_path)
    with pytest.raises(StageError, match=r"train\.json, row 887: answer is null; .* data\.skip_unverifiable: true"):
        source.questions(data, "train", 1, 4)


def test_a_second_process_says_nothing(tmp_path, capsys, monkeypatch):
    as_math_is(tmp_path)
    monkeypatch.setenv("RANK", "1")
    source.questions(config.Data(task="math", path=tmp_path, skip_unverifiable=True), "train", 1, 4)
    assert not capsys.readouterr().err


def test_a_test_set_of_one_s_own_is_named_where_it_has_too_few_questions(tmp_path):
    as_math_is(tmp_path)
    test = written(tmp_path / "aime.jsonl", [{"Problem": "Find it.", "Answer": 33}])
    data = config.Data(task="math", path=tmp_path, skip_unverifiable=True, test=test)
    assert source.questions(data, "heldout", 1, 1)[0].answer == "33"
    with pytest.raises(StageError, match=r"data\.test: .*aime\.jsonl has 1 questions in the heldout split"):
        source.questions(data, "heldout", 1, 2)


def test_only_training_questions_are_of_the_hard_share_and_the_record_has_it_only_where_it_is_set():
    plain, hard = config.Data(), config.Data(hard_share=1.0)
    assert {q.difficulty for q in source.questions(hard, "train", 0, 6)} == {"hard"}
    for split in ("validation", "heldout"):
        assert source.questions(hard, split, 0, 6) == source.questions(plain, split, 0, 6)
    assert source.data_record(hard) == {**source.data_record(plain), "hard_share": 1.0}


def test_the_record_of_the_data_names_the_content_of_both_files_and_not_their_paths(tmp_path):
    train, test = (written(tmp_path / name, GOOD) for name in ("a.jsonl", "b.jsonl"))
    record = source.data_record(config.Data(task="jsonl", path=train, test=test))
    assert record["test"] == record["files"]
    assert record["reading"] == files.VERSION
    assert str(tmp_path) not in str(record)
    assert {"test", "reading"}.isdisjoint(source.data_record(config.Data()))
