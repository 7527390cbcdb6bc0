import json
from pathlib import Path

import pytest

from gateway.request import question
from training.adopt import labels, prompts
from training.errors import StageError

USER = {"role": "user", "content": "What is 6 times 7?"}


def written(path: Path, *rows: object) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "What is 6 times 7?"},
        {"question": "What is 6 times 7?"},
        {"problem": "What is 6 times 7?"},
        {"messages": [USER]},
        {"messages": json.dumps([USER]), "response": "42", "spend": 0.1},  # LiteLLM's spend logs
        {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "messages": [USER]}},
        {"input": [USER], "output": "42", "type": "GENERATION"},  # Langfuse
        {"input": {"messages": [USER]}, "output": "42"},
        {"input": json.dumps({"messages": [USER]})},
        {"messages": [USER, {"role": "assistant", "content": "42"}]},
    ],
    ids=[
        "prompt",
        "question",
        "problem",
        "messages",
        "litellm",
        "batch",
        "langfuse",
        "langfuse object",
        "text",
        "answered",
    ],
)
def test_a_row_s_messages_are_found(tmp_path: Path, row: dict[str, object]):
    (request,) = prompts.read(written(tmp_path / "rows.jsonl", row))
    assert (request.messages, request.prompt, request.gold) == ((USER,), "What is 6 times 7?", None)


def test_a_conversation_is_kept_up_to_the_last_message_to_answer(tmp_path: Path):
    conversation = [
        {"role": "system", "content": "You count."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "image_url", "image_url": {}}]},
        {"role": "assistant", "content": "Hi", "tool_calls": None},
        USER,
        {"role": "assistant", "content": "42"},
    ]
    (request,) = prompts.read(written(tmp_path / "rows.jsonl", {"messages": conversation}))
    assert [message["role"] for message in request.messages] == ["system", "user", "assistant", "user"]
    assert request.prompt == USER["content"]
    assert "tool_calls" not in request.messages[2]


TEXT, IMAGE = {"type": "text", "text": "Hello"}, {"type": "image_url", "image_url": {"url": "data:,"}}


@pytest.mark.parametrize(
    ("content", "readable"),
    [
        ("Hello", True), ([TEXT], True), ([TEXT, TEXT], True), ([TEXT, IMAGE], False), ([IMAGE], False),
        ([{"type": "input_text", "text": "Hello"}], False), ([{"text": "Hello"}], False),
    ],
)  # fmt: skip
def test_a_prompt_is_readable_if_it_is_to_the_gateway(tmp_path: Path, content: object, readable: bool):
    messages = [USER, {"role": "assistant", "content": "42"}, {"role": "user", "content": content}]
    (request,) = prompts.read(written(tmp_path / "rows.jsonl", {"messages": messages}))
    assert request.is_readable == readable
    served = question.parse(json.dumps({"model": "m", "messages": messages}).encode()).prompt
    assert served == (request.prompt if readable else None)
    (request,) = prompts.read(written(tmp_path / "alone.jsonl", {"messages": messages[-1:]}))
    assert request.is_readable == readable, "an image alone is a prompt, too"


@pytest.mark.parametrize(("name", "value"), [("answer", "42"), ("expected_output", 42), ("solution", "42")])
def test_gold_answers_are_read(tmp_path: Path, name: str, value: object):
    (request,) = prompts.read(written(tmp_path / "rows.jsonl", {"prompt": "6 times 7?", name: value}))
    assert request.gold == "42"


def test_one_row_of_several_may_have_the_answer(tmp_path: Path):
    rows = ({"prompt": "6 times 7?"}, {"prompt": "6 times 7?", "answer": "42"}, {"prompt": "6 times 7?", "answer": ""})
    (request,) = prompts.read(written(tmp_path / "rows.jsonl", *rows))
    assert request.gold == "42"


@pytest.mark.parametrize("blank", [None, "", " \n"])
def test_a_blank_answer_is_none(tmp_path: Path, blank: str | None):
    row = {"prompt": "6 times 7?", "answer": blank}
    (request,) = prompts.read(written(tmp_path / "rows.jsonl", row))
    assert request.gold is None
    (request,) = prompts.read(written(tmp_path / "more.jsonl", {**row, "solution": "42"}))
    assert request.gold == "42"


def test_files_with_a_byte_order_mark_lists_and_lines_of_text_are_read(tmp_path: Path):
    (tmp_path / "bom.jsonl").write_text('\ufeff{"prompt": "one"}\n', encoding="utf-8")
    (tmp_path / "list.json").write_text(json.dumps([{"prompt": "one"}, {"prompt": "two"}]))
    (tmp_path / "lines.txt").write_text("one\n\ntwo\n")
    counts = {name: len(prompts.read(tmp_path / name)) for name in ("bom.jsonl", "list.json", "lines.txt")}
    assert counts == {"bom.jsonl": 1, "list.json": 2, "lines.txt": 2}


def test_utf_16_and_line_separators_inside_of_strings_are_read(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "one\u2028more"}\r\n{"prompt": "two"}\r\n', encoding="utf-16")
    assert [text_of_first(request) for request in prompts.read(tmp_path / "rows.jsonl")] == ["one\u2028more", "two"]


def text_of_first(request: prompts.Request) -> object:
    return request.messages[0]["content"]


def test_a_directory_of_the_hub_is_read_by_its_training_files(tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "main").mkdir()
    for split in ("train", "test"):
        table = pyarrow.table({"question": [f"{split} {n}?" for n in range(3)], "answer": ["1", "2", "3"]})
        parquet.write_table(table, tmp_path / "main" / f"{split}-00000-of-00001.parquet")
    requests = prompts.read(tmp_path)
    assert [request.prompt for request in requests] == ["train 0?", "train 1?", "train 2?"]
    assert requests[2].gold == "3"


def test_repeated_prompts_are_measured_once_and_the_number_is_bounded(tmp_path: Path):
    file = written(tmp_path / "rows.jsonl", *({"prompt": f"{n % 4}?"} for n in range(12)))
    assert len(prompts.read(file)) == 4
    assert [request.prompt for request in prompts.read(file, 2)] == ["0?", "1?"]


@pytest.mark.parametrize(
    ("row", "gold"),
    [
        ({"question": "?", "answer": "48/2 = <<48/2=24>>24 clips.\nAltogether 1,072.\n#### 1,072"}, "1072"),  # GSM8K
        ({"problem": "?", "solution": "We add: $1+2=3$. So it is $\\boxed{3}$."}, "3"),  # MATH
        ({"problem": "?", "solution": "We add.", "answer": "3"}, "3"),  # MATH-500
        ({"problem": "?", "solution": "x + 1"}, "x + 1"),
        ({"prompt": "?", "final_answer": 3}, "3"),
        ({"prompt": "?", "expected_answer": "B"}, "B"),
        ({"prompt": "?", "gold": 0.5}, "0.5"),
        ({"input": [{"role": "user", "content": "?"}], "expected_output": "yes"}, "yes"),
    ],
)
def test_the_gold_answer_is_what_a_worked_solution_ends_with(tmp_path: Path, row: dict[str, object], gold: str):
    (request,) = prompts.read(written(tmp_path / "rows.jsonl", row))
    assert request.gold == gold
    assert labels.is_right(f"So the answer is {gold}.", request.gold)


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([], "no prompts in it"),
        (
            [{"prompt": "1?", "answer": "1"}, {"prompt": "1?", "answer": "2"}],
            "rows.jsonl:2: the same messages as rows.jsonl:1",
        ),
        ([{"prompt": "1?"}, {"text": "2?"}], "rows.jsonl:2: no messages, "),
        ([{"prompt": "   "}], "rows.jsonl:1: prompt: no message of the user, or an empty one"),
        ([{"messages": [{"role": "assistant", "content": "x"}]}], "rows.jsonl:1: messages: no message of the user"),
        ([{"messages": [{"role": "user", "content": []}]}], "rows.jsonl:1: messages: no message of the user"),
        ([{"messages": [{"role": "boss", "content": "x"}]}], r"rows.jsonl:1: messages\[0\]: role must be"),
        ([{"messages": ["x"]}], r"rows.jsonl:1: messages\[0\]: role"),
        ([{"prompt": "1?", "answer": ["a"]}], "rows.jsonl:1: answer must be text or a number"),
        ([["x"]], "rows.jsonl:1: must be a JSON object"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, rows: list[object], named: str):
    with pytest.raises(StageError, match=named):
        prompts.read(written(tmp_path / "rows.jsonl", *rows))


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("a.jsonl", b'{"prompt": \n', "a.jsonl:1: not JSON"),
        ("a.jsonl", b"\x80abc", "not UTF-8"),
        ("a.csv", b"x", "prompts are read from"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, name: str, content: bytes, named: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StageError, match=named):
        prompts.read(tmp_path / name)
    with pytest.raises(StageError, match=r"missing\.jsonl: cannot be read"):
        prompts.read(tmp_path / "missing.jsonl")
