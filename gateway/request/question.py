"""What does the caller ask? A chat request's body, read as far as the gateway acts on it.

The values that the gateway acts on are checked here. Every other one passes through unchanged, for the engine to judge,
if `gateway/request/fields.py` allows its field.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, NoReturn, cast

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from gateway import errors
from gateway.errors import BadRequestError
from gateway.events import object_at, objects, string_at
from gateway.request import fields
from gateway.request.dialects import MAX_BUDGET, hides_thinking
from gateway.request.dialogue import Dialogue, dialogue_of
from models.family import Family

Body = dict[str, Any]

MAX_DIGITS = 308
"""Of a whole number: with more it is out of a float's range, and most JSON readers fail on it."""
MAX_CHOICES = 128
"""OpenAI's own limit."""


_ROLES_WITH_CONTENT = frozenset({"assistant", "developer", "system", "tool", "user"})
_INSTEAD_OF_CONTENT = ("tool_calls", "function_call", "refusal", "audio", "reasoning", "reasoning_content")


class _Loose(BaseModel):
    """Strict about the types of its fields (a number is not a string), and indifferent to other fields."""

    model_config = ConfigDict(strict=True, extra="ignore")


class ChatMessage(_Loose):
    """One message of the conversation."""

    role: str = Field(min_length=1)
    content: str | list[dict[str, Any]] | None = None
    instead: Any = Field(default=None, validation_alias=AliasChoices(*_INSTEAD_OF_CONTENT))
    """What an assistant's message may have instead of content."""

    @property
    def lacks_content(self) -> bool:
        """Whether OpenAI's API would miss the content."""
        may_be_without = self.role == "assistant" and self.instead is not None
        return self.content is None and self.role in _ROLES_WITH_CONTENT and not may_be_without


_PER_TOKEN_FIELDS = ("logprobs", "top_logprobs", "prompt_logprobs", "logprob_token_ids", "return_token_ids")


class _StreamOptions(_Loose):
    include_usage: bool | None = None
    continuous_usage_stats: Any = None


class ChatRequest(_Loose):
    """The fields of a chat request that the gateway acts on."""

    model: str = Field(min_length=1)
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_BUDGET)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_BUDGET)
    min_tokens: int | None = Field(default=None, ge=0, le=MAX_BUDGET)
    include_reasoning: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None


@dataclass(frozen=True)
class Question:
    """One chat request."""

    model: str
    prompt: str | None
    """The text of the last user message; None if there is none, or if it has more than text and cannot be predicted."""
    stream: bool
    wants_usage: bool
    """The caller of a stream asked for the usage event."""
    choices: int
    max_tokens: int | None
    """The caller's limit on thinking and answer together; None if the context is the only limit."""
    max_tokens_field: str
    """The field of that limit."""
    may_escalate: bool
    """Two responses can be joined into one: there is one choice, and the caller wants nothing per token."""
    hides_reasoning: bool
    """The caller does not want to see the thinking (`include_reasoning: false`, or what other dialects call it)."""
    body: Body
    """The body as it came, with every field."""
    asked: Body = field(default_factory=dict[str, Any])
    """The same in the API that the caller speaks."""
    dialogue: Dialogue = field(default_factory=Dialogue)
    """The turns before the prompt."""
    memory: int = 0
    """About how many bytes the body takes while the request is in flight."""


def parse(raw: bytes, opened: Collection[str] = (), chat_body: Callable[[Body], Body] = lambda body: body) -> Question:
    """The question in a request's body.

    Args:
        raw: the body.
        opened: fields that the operator allows besides those on the list.
        chat_body: translates the body of another API.

    Raises:
        BadRequestError: not JSON, a field that is not allowed, or a field that the gateway acts on is missing or of a
            wrong type; names the field.
    """
    asked = _json_object(raw)
    body = chat_body(asked)
    try:
        chat = ChatRequest.model_validate(body)
    except ValidationError as error:
        raise errors.invalid(error.errors(include_url=False)) from None
    fields.check(body, opened)
    for at, message in enumerate(chat.messages):
        if message.lacks_content:
            field = f"messages[{at}].content"
            raise BadRequestError(f"{field}: missing; a message of the role {message.role} needs it", field)
    if chat.stream_options is not None and not chat.stream:
        raise BadRequestError(
            "stream_options is only allowed for streams: set stream to true, or leave it out", "stream_options"
        )
    return Question(
        model=chat.model,
        prompt=_prompt(chat.messages),
        stream=bool(chat.stream),
        wants_usage=chat.stream_options is not None and bool(chat.stream_options.include_usage),
        choices=chat.n or 1,
        max_tokens=chat.max_completion_tokens or chat.max_tokens,
        max_tokens_field="max_completion_tokens" if chat.max_completion_tokens else "max_tokens",
        may_escalate=(chat.n or 1) == 1
        and not any(map(body.get, _PER_TOKEN_FIELDS))
        and not (chat.stream_options and chat.stream_options.continuous_usage_stats),
        hides_reasoning=chat.include_reasoning is False or hides_thinking(body),
        body=body,
        asked=asked,
        dialogue=_dialogue(chat.messages),
        memory=_memory(raw),
    )


def pinned_checkpoint(model: str, family: Family, allowed: frozenset[str]) -> str | None:
    """The checkpoint that a model's name pins; None for the family's name, which lets the gateway choose.

    Raises:
        ApiError: 404, there is no such model; 403, the key does not allow this checkpoint.
    """
    if model == family.name:
        return None
    for checkpoint in family.checkpoints:
        if model == family.served_name(checkpoint.name):
            if checkpoint.name not in allowed:
                names = ", ".join(one.name for one in family.checkpoints if one.name in allowed)
                raise errors.forbidden(
                    f"This key allows {names}, not {model}. Use one of these, or another key.", "model"
                )
            return checkpoint.name
    raise errors.unknown_model(model)


def encode(body: Body) -> bytes:
    """A body as bytes for the engine.

    Raises:
        BadRequestError: a string is not valid Unicode, such as half a surrogate pair, which names the field; or what
            was just parsed is nested too deeply to be written.
    """
    try:
        return _utf8(body)
    except RecursionError:
        raise BadRequestError("The body is nested too deeply.") from None
    except UnicodeEncodeError:
        for field, value in body.items():
            try:
                _utf8({field: value})
            except UnicodeEncodeError:
                raise BadRequestError(
                    f"{field}: not valid Unicode, because it has half a surrogate pair", field
                ) from None
        raise


def text_of(body: Body) -> str:
    """The text of all messages: what was said, without thinking and calls of tools."""
    messages = [ChatMessage.model_validate(message) for message in body["messages"]]
    return "\n".join(text for message in messages if (text := _text(message.content)))


def prompt_of(body: Body) -> str:
    """All text that the model reads, to be counted: what was said, calls of tools, thinking, and the tools.

    Thinking counts behind the last user's message only: chat templates leave out that of earlier turns.
    """
    messages = objects(body["messages"])
    last = max((at for at, message in enumerate(messages) if message.get("role") == "user"), default=-1)
    texts = [text_of(body)]
    for at, message in enumerate(messages):
        if at > last:
            texts.append(string_at(message, "reasoning") or string_at(message, "reasoning_content"))
        functions = [object_at(call, "function") for call in objects(message.get("tool_calls"))]
        for function in (*functions, object_at(message, "function_call")):
            texts += (string_at(function, "name"), string_at(function, "arguments"))
    texts += [_legible(body[name]) for name in ("tools", "functions") if body.get(name)]
    return "\n".join(filter(None, texts))


def is_text(body: Body) -> bool:
    """Whether the messages of a chat request are text alone, without images and the like."""
    for message in cast("list[Body]", body["messages"]):
        content: object = message.get("content")
        if isinstance(content, list):
            kinds = [part.get("type") for part in cast("list[Body]", content)]
            if any(kind != "text" for kind in kinds):
                return False
    return True


def _legible(value: object) -> str:
    try:
        return _LEGIBLE.encode(value)
    except RecursionError:  # no engine gets a body that is nested so deeply
        return ""


def _utf8(body: Body) -> bytes:
    return _COMPACT.encode(body).encode()


def _json_object(raw: bytes) -> Body:
    try:
        body: object = _STRICT.decode(raw.decode(json.detect_encoding(raw), "surrogatepass"))
    except RecursionError:
        raise BadRequestError("The body is nested too deeply to be parsed.") from None
    except OverflowError:
        field = _field_out_of_range(raw)
        message = "a number is out of range, because its size is over 1.8e308"
        raise BadRequestError(f"{field or 'The body'}: {message}", field) from None
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, an integer of thousands of digits
        raise BadRequestError(f"The body is not valid JSON: {error}") from None
    if not isinstance(body, dict):
        raise BadRequestError("The body must be a JSON object.")
    return cast("Body", body)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise OverflowError
    return number


def _memory(raw: bytes) -> int:
    """About how much a parsed body takes: a brace of three bytes becomes an object of some seventy."""
    return len(raw) + 64 * (raw.count(b"{") + raw.count(b"[")) + 40 * raw.count(b",")


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise OverflowError
    return int(text)


def _field_out_of_range(raw: bytes) -> str | None:
    """The field of a body whose number is not finite as a float."""
    try:
        body: object = json.loads(raw.decode(json.detect_encoding(raw), "surrogatepass"), parse_int=float)
    except (ValueError, RecursionError):  # something behind the number is wrong, too
        return None
    items = cast("Body", body).items() if isinstance(body, dict) else ()
    return next((field for field, value in items if not _is_finite(value)), None)


def _is_finite(value: object) -> bool:
    try:
        _FINITE.encode(value)
    except ValueError:
        return False
    return True


# Built once: with non-default arguments, `json.loads` and `json.dumps` build a new coder for every call.
_STRICT = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite, parse_int=_whole)
_FINITE = json.JSONEncoder(allow_nan=False)
_LEGIBLE = json.JSONEncoder(ensure_ascii=False)
_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def _prompt(messages: list[ChatMessage]) -> str | None:
    for message in reversed(messages):
        if message.role == "user":
            return _readable(message.content)
    return None


def _dialogue(messages: list[ChatMessage]) -> Dialogue:
    if len(messages) == 1:
        return Dialogue()
    return dialogue_of([(one.role, _readable(one.content) if one.role == "user" else None) for one in messages])


def _readable(content: str | list[dict[str, Any]] | None) -> str | None:
    """A message's text; None if it has more than text, or nothing."""
    is_text = isinstance(content, str) or (content and all(part.get("type") == "text" for part in content))
    return _text(content) if is_text else None


def _text(content: str | list[dict[str, Any]] | None) -> str:
    if isinstance(content, list):
        return "\n".join(str(part["text"]) for part in content if isinstance(part.get("text"), str))
    return content or ""
