"""Which API does a request speak? Chat completions, Anthropic's Messages, OpenAI's Responses, or its completions.

Whatever it speaks, it makes the journey of a chat request (`gateway/chat.py`): it is translated where it comes in, and
its answer where it goes out. So routing, caps, counts and limits are the same for all
(docs/decisions/0045-surfaces.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from gateway.errors import ApiError, Shape
from gateway.events import Json, encode_json, parse_object
from gateway.surfaces import completions, messages_in, messages_out, responses_in, responses_out


@dataclass(frozen=True)
class Surface:
    """One API. `asked` is the request's body as it came."""

    chat_body: Callable[[Json], Json]
    """The chat request that asks the same; raises `BadRequestError`."""
    whole: Callable[[bytes, Json], bytes]
    """The body of a response that does not stream, from that of the chat response."""
    stream: Callable[[Json], Callable[[bytes], bytes] | None]
    """What turns whole events of a chat stream into this API's; None if they stay as they are."""
    error: Shape | None = None
    """An error's body, where it is not OpenAI's."""
    fails_if_given_up: bool = False
    """Whether an answer that the engine gave up is an error here. A chat has the engine's reason instead."""
    ids: tuple[bytes, ...] = (b"x-request-id",)
    """The headers of a response that have the request's id."""
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    """What a chat's fields are called here, where they are called otherwise."""

    def name_fields(self, failure: ApiError, asked: Json) -> None:
        """Let an error about the chat name the field that the caller sent, which became the chat's."""
        head = re.split(r"[.\[]", failure.param or "", maxsplit=1)[0]
        if head in asked or (own := self.names.get(head)) is None:
            return
        failure.param = own  # as a whole: its parts may have become others
        failure.message = re.sub(rf"\b{head}\b(\[\d+\](\.\w+)*)?", own, failure.message)


def _message(completion: bytes, _: Json) -> bytes:
    return encode_json(messages_out.message(parse_object(completion) or {}))


def _response(completion: bytes, asked: Json) -> bytes:
    return encode_json(responses_out.response(parse_object(completion) or {}, asked))


def _completion(completion: bytes, _: Json) -> bytes:
    return encode_json(completions.completion(parse_object(completion) or {}))


def _counted(asked: Json) -> Json:
    return messages_in.chat_body({"max_tokens": 1, **asked})


CHAT = Surface(lambda body: body, lambda completion, _: completion, lambda _: None)
MESSAGES = Surface(
    messages_in.chat_body,
    _message,
    lambda _: messages_out.MessageStream().feed,
    messages_out.error,
    fails_if_given_up=True,
    ids=(b"x-request-id", b"request-id"),
)
COUNTED = replace(MESSAGES, chat_body=_counted)
"""A message whose tokens are counted: it needs no `max_tokens`."""
RESPONSES = Surface(
    responses_in.chat_body,
    _response,
    lambda asked: responses_out.ResponseStream(asked).feed,
    fails_if_given_up=True,
    names=responses_in.NAMES,
)
COMPLETIONS = Surface(
    completions.chat_body,
    _completion,
    lambda _: completions.CompletionStream().feed,
    names={"messages": "prompt"},
)
