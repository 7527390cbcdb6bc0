"""What does a caller see when something is wrong? OpenAI's error shape, whatever failed, with a fitting status.

    {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}

`param` names the header or body field to change, if there is one. Everything that an endpoint raises leaves through
`response`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from starlette.requests import ClientDisconnect
from starlette.responses import Response

UNAUTHORIZED = 401
INTERNAL = 500
CALLER_LEFT = 499
"""nginx's status for a caller that left. Only the ledger and the metrics see it."""

_INVALID = "invalid_request_error"
_TOO_LONG = re.compile(r"context length|maximum input length|max_model_len|longer than the maximum", re.IGNORECASE)
_FIELDS_BY_PHRASE = {
    "Grammar error": ("response_format", "structured_outputs", "tools"),
    "tool choice": ("tool_choice", "tools"),
    "multimodal": ("messages",),
    "jinja2": ("chat_template_kwargs", "messages"),
}
"""Phrases in vLLM's errors that name no field, and the fields that they are about."""
MAX_MESSAGE = 2000
"""Characters of an engine's message that are passed on."""
_OUTPUT_FIELDS = frozenset({"max_tokens", "max_completion_tokens"})


class ApiError(Exception):
    """An error response for the caller."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = _INVALID,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after = retry_after
        self.headers = headers or {}

    @property
    def name(self) -> str:
        """What the ledger and the metrics call it."""
        return self.code or self.kind

    def body(self) -> bytes:
        """The JSON of the response. `kind` is its `type`."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()

    def event(self) -> bytes:
        """The same JSON as the last event of a stream."""
        return b"data: " + self.body() + b"\n\n"


Shape = Callable[[ApiError, str], dict[str, Any]]
"""Returns the JSON of an error, and of the id of its request, as another API has it."""


class BadRequestError(ApiError):
    """400: the caller's request cannot be used as it is."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(400, message, param=param, code=code)


def response(error: Exception, shape: Shape | None = None, request_id: str = "") -> Response:
    """What the caller gets for anything that an endpoint raises; `shape` is that of another API, if it speaks one."""
    if isinstance(error, ClientDisconnect):
        return Response(status_code=CALLER_LEFT)
    if not isinstance(error, ApiError):
        error = internal()
    headers = dict(error.headers)
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    body = error.body() if shape is None else json.dumps(shape(error, request_id)).encode()
    return Response(body, error.status, headers, "application/json")


def invalid(details: Sequence[Mapping[str, Any]], *, placed: bool = False) -> BadRequestError:
    """400: the first value that pydantic rejects, with the path of its field: `messages[0].content`.

    Args:
        details: pydantic's `errors()`, or FastAPI's.
        placed: they are FastAPI's, whose paths begin with the place, such as `query`.
    """
    first = details[0]
    located: list[int | str] = list(first["loc"])[1 if placed else 0 :]
    # A union's member adds its own name to the path: `messages.0.content.str`.
    parts = [part for at, part in enumerate(located) if not at or part not in ("str", "list[dict[str,any]]")]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")
    message = str(first["msg"]).removeprefix("Value error, ")
    return BadRequestError(f"{path}: {message}" if path else message, path or None)


def not_found(path: str) -> ApiError:
    """404: no endpoint at this path."""
    return ApiError(
        404,
        f"There is nothing at {path}. Chats go to POST /v1/chat/completions; GET /openapi.json lists the rest.",
        code="not_found",
    )


def unknown_model(model: str) -> ApiError:
    """404: this gateway has no such model."""
    return ApiError(
        404,
        f"The model {model!r} does not exist here. GET /v1/models lists those that do.",
        param="model",
        code="model_not_found",
    )


def method_not_allowed(method: str, path: str, allowed: str) -> ApiError:
    """405: the endpoint at this path takes other methods."""
    message = f"{method} is not allowed at {path}. Use {allowed}."
    return ApiError(405, message, code="method_not_allowed", headers={"allow": allowed})


def overloaded() -> ApiError:
    """429: the gateway has its maximum of requests in flight, or the key its share of them."""
    return ApiError(
        429,
        "The gateway has reached its limit of concurrent requests, or this key its share of them. Retry in a moment.",
        kind="rate_limit_error",
        code="overloaded",
        retry_after=1,
    )


def concurrency_exceeded(name: str, most: int) -> ApiError:
    """429: a key has its own maximum of requests in flight."""
    return ApiError(
        429,
        f"The key {name} may have {most} requests in flight. Wait until one has ended.",
        kind="rate_limit_error",
        code="concurrency_exceeded",
        retry_after=1,
    )


def busy(refusal: ApiError, retry_after: int) -> ApiError:
    """429: the queue of every engine that could answer is full."""
    return ApiError(429, refusal.message, kind="rate_limit_error", code="overloaded", retry_after=retry_after)


def unauthorized(message: str) -> ApiError:
    """401: the request has no valid key."""
    return ApiError(UNAUTHORIZED, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


def forbidden(message: str, param: str | None = None) -> ApiError:
    """403: the key is valid but does not allow this."""
    return ApiError(403, message, kind="permission_error", param=param, code="not_allowed")


def foreign(message: str, param: str | None = None) -> ApiError:
    """403: the request may come from a foreign web page, and nothing but its address protects this gateway."""
    return ApiError(403, message, kind="permission_error", param=param, code="foreign_page")


def not_json() -> ApiError:
    """415: the body is not declared as JSON."""
    message = "Declare the body as JSON: send the header Content-Type: application/json."
    return ApiError(415, message, param="Content-Type", code="unsupported_media_type")


def unavailable(message: str, code: str = "engine_unavailable", retry_after: int = 2) -> ApiError:
    """503: something that the request needs does not answer now."""
    return ApiError(503, message, kind="api_error", code=code, retry_after=retry_after)


def books_unavailable() -> ApiError:
    """503: what the request costs could not be recorded safely, and the operator does not want that."""
    return unavailable(
        "The gateway cannot record requests now: its disk is full or gone, and Redis is down. Retry in a moment.",
        code="books_unavailable",
    )


def interrupted(message: str = "The engine stopped answering in the middle of the stream.") -> ApiError:
    """502: the response has begun and cannot be finished."""
    return ApiError(502, message, kind="api_error", code="engine_failed")


def gave_up() -> ApiError:
    """502: the engine ended an answer and said itself that it is none."""
    return interrupted("The engine gave up in the middle of its answer.")


def sent_too_much() -> ApiError:
    """502: a stream is longer than what was asked for can be."""
    return interrupted("The engine sent more than this request can have.")


def unreadable() -> ApiError:
    """502: a stream has an event that is no JSON, or JSON that cannot be written again."""
    return interrupted("The engine sent an event that cannot be read.")


def stopping() -> ApiError:
    """503: the gateway is stopping, and its time for finishing requests is over."""
    return ApiError(
        503, "The gateway is stopping. Retry in a moment.", kind="api_error", code="gateway_stopping", retry_after=2
    )


def prices_missing(name: str) -> ApiError:
    """503: a key has a limit in money, and this gateway was started without prices."""
    return ApiError(
        503,
        f"The key {name} has a limit in money, and this gateway has no prices. Its operator sets them with --prices.",
        kind="api_error",
        code="prices_missing",
    )


def malformed(reason: str) -> ApiError:
    """400: the bytes that arrived are not HTTP/1.1."""
    return ApiError(400, f"The request is not valid HTTP/1.1: {reason}.", code="malformed_request")


def head_too_large(most: str) -> ApiError:
    """431: the request line and headers are longer than the gateway reads."""
    return ApiError(
        431,
        f"The request's line and headers have more than {most}, which this gateway accepts. Send fewer or shorter"
        " headers.",
        code="headers_too_large",
    )


def head_too_slow() -> ApiError:
    """408: the request's headers did not arrive in time."""
    return ApiError(408, "The request's headers did not arrive in time. Send it again.", code="request_timeout")


def too_many_connections() -> ApiError:
    """503: every connection that the gateway may have is answering a request."""
    return ApiError(
        503,
        "The gateway has its maximum of connections. Close some, or retry in a moment.",
        kind="api_error",
        code="too_many_connections",
        retry_after=1,
    )


def too_slow() -> ApiError:
    """408: the request's body did not arrive in time."""
    return ApiError(408, "The request's body did not arrive in time. Send the request again.", code="request_timeout")


def internal() -> ApiError:
    """500: a bug in the gateway; the log has the traceback."""
    return ApiError(
        INTERNAL,
        "The gateway failed on this request. Its log has the details under the x-request-id.",
        kind="api_error",
        code="internal_error",
    )


def from_engine(status: int, payload: object) -> ApiError:
    """An engine's error response as the gateway's. `payload` is the JSON that the engine sent, if it was JSON.

    A prompt that is too long gets OpenAI's own code, by which clients shorten it and retry.
    """
    outer = cast("dict[str, Any]", payload) if isinstance(payload, dict) else {}
    inner = outer.get("error", outer)
    error = cast("dict[str, Any]", inner) if isinstance(inner, dict) else {}
    said: object = error.get("message")
    message = said[:MAX_MESSAGE] if isinstance(said, str) and said else f"The engine answered {status}."
    param = error.get("param")
    param = param[:MAX_MESSAGE].removeprefix("body.") if isinstance(param, str) else None
    if status >= 500:
        return interrupted(message)
    code = None
    if _TOO_LONG.search(message):
        code = "context_length_exceeded"
        param = param if param in _OUTPUT_FIELDS else "messages"
    return ApiError(status, message, param=param, code=code)


def from_event(event: Mapping[str, Any]) -> ApiError:
    """An engine's error event as the gateway's error, with the status that the event names, or else 500."""
    error: object = event["error"]
    code: object = cast("dict[str, Any]", error).get("code") if isinstance(error, dict) else None
    status = int(code) if isinstance(code, int | str) and re.fullmatch(r"[45][0-9]{2}", str(code)) else 500
    return from_engine(status, {"error": {"message": error}} if isinstance(error, str) else event)


def field_at_fault(message: str, body: Mapping[str, Any]) -> str | None:
    """The body field that an engine's error is about, matched by phrases of its message."""
    first = re.match(r"\w+", message)
    if first is not None and first[0] in body:
        return first[0]
    for phrase, fields in _FIELDS_BY_PHRASE.items():
        if phrase in message:
            return next((field for field in fields if field in body), None)
    return None
