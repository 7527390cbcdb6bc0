"""Files of questions as people save and publish them: encodings, line ends, columns, CSV and Parquet."""

import json

import pyarrow
import pytest
from pyarrow import parquet

from training.errors import StageError
from training.tasks import files
from training.tasks.rows import read

ROWS = [{"prompt": f"Wie hei\u00dft {n}?", "answer": n} for n in range(60)]
TEXT = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def answers(path) -> list[int]:
    by_split = files.read("jsonl", path)
    return sorted(int(q.answer) for questions in by_split.values() for q in questions)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_a_file_is_read_in_any_unicode_encoding_and_with_any_line_ends(tmp_path, encoding, ends):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(TEXT.replace("\n", ends).encode(encoding))
    assert answers(path) == list(range(60))
    assert read(path)[0].fields["prompt"] == "Wie hei\u00dft 0?"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path, encoding):
    path = tmp_path / "mine.json"
    path.write_bytes(("\ufeff" + json.dumps(ROWS)).encode(encoding))
    assert answers(path) == list(range(60))


def test_text_that_is_not_unicode_is_named_with_its_line_and_what_to_do(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b'{"prompt": "a", "answer": 1}\n' + TEXT.encode("latin-1"))
    with pytest.raises(StageError, match=r"mine\.jsonl, line 2: not UTF-8 or UTF-16 text .*save the file as UTF-8"):
        read(path)


def test_a_json_file_may_have_one_object_on_each_line(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(TEXT)
    assert answers(path) == list(range(60))
    path.write_text(json.dumps({"rows": ROWS}, indent=2))
    with pytest.raises(StageError, match=r"mine\.json: not JSON, or neither a list of rows"):
        read(path)


def test_csv_and_parquet_are_read(tmp_path):
    lines = [f'"Say {n}, please.\nNow.",{n:03}' for n in range(60)]
    (tmp_path / "mine.csv").write_bytes("\ufeffProblem,Answer\r\n".encode() + "\r\n".join(lines).encode())
    assert answers(tmp_path / "mine.csv") == list(range(60))
    assert read(tmp_path / "mine.csv")[1].fields == {"Problem": "Say 1, please.\nNow.", "Answer": "001"}
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "mine.parquet")
    assert answers(tmp_path / "mine.parquet") == list(range(60))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"problem,answer\nWhat, is 1?,1\n", "line 2: has another number of columns"),
        ("a.csv", b"problem,answer\nWhat is 1?\n", "line 2: has another number of columns"),
        ("a.parquet", b"no", "cannot be read as Parquet"),
        ("a.json", b"[1]", "row 1: must be an object"),
        ("a.json", b"[{]", "not JSON"),
        ("a.json", b"", "not JSON"),
    ],
)
def test_a_malformed_file_is_named_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StageError, match=message) as caught:
        read(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("columns", [("Problem", "Answer"), ("problem", "answer"), ("Question", "expected_answer")])
def test_columns_are_found_in_any_case(tmp_path, columns):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps({columns[0]: f"Say {n}.", columns[1]: n}) + "\n" for n in range(60)))
    assert answers(path) == list(range(60))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"Aufgabe": "1+1?", "answer": 2},
            "prompt is missing, in every row: a column must be called prompt, problem .*'Aufgabe', 'answer'",
        ),
        ({"ID": 1, "Problem": "1+1?", "Loesung": 2}, "answer is missing, .* found are 'ID', 'Problem', 'Loesung'"),
        ({}, "the columns found are none"),
    ],
)
@pytest.mark.parametrize("skip", [False, True])
def test_without_a_fitting_column_the_columns_found_are_listed(tmp_path, row, message, skip):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(StageError, match=message):
        files.read("jsonl", path, skip_unverifiable=skip)


AIME = [
    {"ID": "2024-I-4", "Problem": "Find $m+n$.", "Solution": r"So $\boxed{33}$.", "Answer": 33},
    {"id": 60, "problem": "Find $m-n$.", "answer": "033", "url": "https://x", "year": "2024"},
    {"problem_idx": 1, "problem": "Find $mn$.", "answer": 33.0, "problem_type": ["Algebra"]},
    {"question": "Find $m/n$.", "answer": "33"},
    {"id": "0", "Question": "Find $n$.", "Solution": r"Hence $\boxed{033}$."},
    {"problem": "Find $n^2$.", "solution": "Hence $n^2 = \\boxed{33}$.", "answer": None, "aime_number": 1},
]


@pytest.mark.parametrize("task", ["math", "jsonl"])
def test_a_test_set_in_a_published_shape_is_the_heldout_split(tmp_path, task):
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps({"problem": f"Say {n}.", "answer": n}) + "\n" for n in range(60)))
    test = tmp_path / "aime.jsonl"
    test.write_text("".join(json.dumps(row) + "\n" for row in AIME))
    by_split = files.read(task, tmp_path if task == "math" else train, test=test)
    assert [int(q.answer) for q in by_split["heldout"]] == [33] * 6
    assert {q.difficulty for q in by_split["heldout"]} == {"level unknown" if task == "math" else "all"}
    assert len(by_split["train"]) + len(by_split["validation"]) == 60
