"""Which requests is a model measured on? Reads prompts as people have them: questions, conversations, logs.

A row is a JSON object in a `.jsonl` file, or a row of a Parquet file in a directory as the Hugging Face Hub has it. Its
messages are the first of

    messages                        OpenAI's chat format, as a list or as JSON text (LiteLLM's spend logs)
    body.messages                   a file for OpenAI's batch API
    input, input.messages           an export of Langfuse's observations
    prompt, question, problem       one question

and its gold answer, if it has one, the first of `answer`, `final_answer`, `expected_answer`, `gold`, `expected_output`
and `solution`. A worked solution's gold answer is what it ends with after `####` (GSM8K) or marks as its answer (MATH).
A `.txt` file has a question per line. Nothing else is read, least of all the answers of whoever served the logs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from training.errors import StageError
from training.tasks import rows
from training.tasks.files import ENDS_WITH_ANSWER, SOLUTION
from training.tasks.stated import final_answer

MESSAGES = ("messages", "body.messages", "input.messages", "input")
QUESTION = ("prompt", "question", "problem")
GOLD = ("answer", "final_answer", "expected_answer", "gold", "expected_output", "solution")
ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


@dataclass(frozen=True)
class Request:
    """One request to measure on."""

    where: str
    """The file and the row, for messages."""
    messages: tuple[Mapping[str, Any], ...]
    gold: str | None

    @property
    def key(self) -> str:
        """A hash of the messages, by which a resumed measurement recognises the request."""
        return hashlib.sha256(json.dumps(self.messages, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def prompt(self) -> str:
        """The text of the last user message, which the difficulty profile reads."""
        return text_of(self._asked)

    @property
    def is_readable(self) -> bool:
        """Whether that message is text alone. With an image in it, the gateway lets the reference answer."""
        return is_text(self._asked)

    @property
    def _asked(self) -> object:
        users = (message.get("content") for message in reversed(self.messages) if message["role"] == "user")
        return next(users, "")


def read(path: Path, most: int | None = None) -> list[Request]:
    """Return the distinct requests of a file or directory, the first `most` of them.

    Raises:
        StageError: nothing can be read, a row has no usable messages, is empty, or contradicts the gold answer of the
            same messages in an earlier row. Names the file, the row and the field.
    """
    requests: dict[str, Request] = {}
    for request in _requests(path):
        known = requests.setdefault(request.key, request)
        if known.gold is None:
            requests[request.key] = request  # one row of several may have the answer
        elif request.gold not in (None, known.gold):
            raise StageError(f"{request.where}: the same messages as {known.where}, but another answer; remove one")
        if most is not None and len(requests) == most:
            break
    if not requests:
        raise StageError(f"{path}: no prompts in it")
    return list(requests.values())


def text_of(content: object) -> str:
    """The text of a message's content; parts that are not text are left out."""
    if isinstance(content, str):
        return content
    parts = cast("list[object]", content) if isinstance(content, list) else []
    texts = [cast("Mapping[str, object]", part).get("text") for part in parts if isinstance(part, dict)]
    return "\n".join(text for text in texts if isinstance(text, str))


def is_text(content: object) -> bool:
    """Whether a message's content is text alone, as the gateway decides it (`gateway.request.question`)."""
    if not isinstance(content, list):
        return isinstance(content, str)
    parts = cast("list[object]", content)
    return bool(parts) and all(
        isinstance(part, dict) and cast("Mapping[str, object]", part).get("type") == "text" for part in parts
    )


def _requests(path: Path) -> Iterator[Request]:
    for file in _files(path):
        for number, row in enumerate(_rows(file), start=1):
            yield _request(f"{file.name}:{number}", row)


def _files(path: Path) -> Sequence[Path]:
    if path.is_dir():
        files = sorted(file for suffix in ("jsonl", "parquet") for file in path.rglob(f"*.{suffix}"))
        # The Hub's directories have a file per split. What is measured on must not be what others report on.
        train = [file for file in files if "train" in file.name]
        if not files:
            raise StageError(f"{path}: no .jsonl or .parquet file in it")
        return train or files
    if path.suffix not in (".jsonl", ".json", ".txt", ".parquet"):
        raise StageError(f"{path}: prompts are read from .jsonl, .txt or .parquet files, or a directory with them")
    return [path]


def _rows(file: Path) -> Iterator[object]:
    if file.suffix == ".parquet":
        yield from rows.parquet_rows(file)
        return
    text = rows.read_text(file)
    if file.suffix == ".txt":
        yield from ({"prompt": line} for line in rows.lines_of(text) if line.strip())
    elif text.lstrip().startswith("["):  # a JSON list, as some exports are
        yield from _parsed(file, 1, text, list)
    else:
        for number, line in enumerate(rows.lines_of(text), start=1):
            if line.strip():
                yield _parsed(file, number, line, dict)


def _parsed(file: Path, number: int, text: str, kind: type) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StageError(f"{file.name}:{number}: not JSON ({error})") from None
    if not isinstance(value, kind):
        raise StageError(f"{file.name}:{number}: must be a JSON {'object' if kind is dict else 'list'}")
    return value


def _request(where: str, row: object) -> Request:
    if not isinstance(row, dict):
        raise StageError(f"{where}: must be a JSON object")
    fields = cast("dict[str, Any]", row)
    name = next((name for name in GOLD if not _is_blank(fields.get(name))), None)
    return Request(where, _messages(where, fields), None if name is None else _gold(where, name, fields[name]))


def _is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _gold(where: str, name: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise StageError(f"{where}: {name} must be text or a number, got {json.dumps(value)[:60]}")
    text = str(value)
    if worked := ENDS_WITH_ANSWER.search(text):
        return worked[1].replace(",", "")
    return (final_answer(text) or text) if name == SOLUTION else text


def _messages(where: str, fields: dict[str, Any]) -> tuple[Mapping[str, Any], ...]:
    for path in MESSAGES:
        value = _at(fields, path)
        if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
            try:
                value = json.loads(value)
            except ValueError:
                continue
        if isinstance(value, dict):
            value = cast("dict[str, Any]", value).get("messages")
        if isinstance(value, list):
            return _checked(where, path, cast("list[object]", value))
    for name in QUESTION:
        if isinstance(question := fields.get(name), str):
            return _checked(where, name, [{"role": "user", "content": question}])
    raise StageError(f"{where}: no {', '.join((*MESSAGES[:3], *QUESTION))}")


def _checked(where: str, field: str, messages: list[object]) -> tuple[Mapping[str, Any], ...]:
    """The messages up to the last of the user, which is the one to answer."""
    for number, message in enumerate(messages):
        role = cast("dict[str, Any]", message).get("role") if isinstance(message, dict) else None
        if role not in ROLES:
            raise StageError(f"{where}: {field}[{number}]: role must be one of {', '.join(sorted(ROLES))}")
    parsed = cast("list[dict[str, Any]]", messages)
    while parsed and parsed[-1]["role"] != "user" and parsed[-1]["role"] not in ("tool", "function"):
        parsed = parsed[:-1]
    if not any(message["role"] == "user" and _says_something(message.get("content")) for message in parsed):
        raise StageError(f"{where}: {field}: no message of the user, or an empty one")
    return tuple({name: value for name, value in message.items() if value is not None} for message in parsed)


def _says_something(content: object) -> bool:
    return bool(text_of(content).strip()) or (isinstance(content, list) and bool(content) and not is_text(content))


def _at(fields: dict[str, Any], path: str) -> Any:
    value: Any = fields
    for name in path.split("."):
        value = cast("dict[str, Any]", value).get(name) if isinstance(value, dict) else None
    return value
