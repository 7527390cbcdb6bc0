"""Is what an engine sent the beginning of an answer, or a failure? Pure, and ready for any bytes.

Some engines send 200 before they fail. Until an answer has begun, nothing of it has reached the caller, so another
engine can still be asked. A comment or an empty line is no answer.
"""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime

from gateway import errors
from gateway.errors import ApiError
from gateway.events import BYTE_ORDER_MARK, EVENT_END, Json, data_of, objects, parse_object

LONGEST_WAIT_SECONDS = 3600
MAX_FIRST_BYTES = 262_144
"""The most bytes before the end of the first event. Another engine is asked after that, and may do the same."""
_ANSWER = re.compile(rb'"choices"\s*:\s*\[\s*\{')
_RETRY_AFTER = re.compile(rb"^retry-after[ \t]*:[ \t]*([^\r\n]{1,64})", re.IGNORECASE | re.MULTILINE)
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")


class NoAnswerError(ConnectionError):
    """What the engine sent ends, or is too long, without being an answer."""


class FirstEvent:
    """Finds the first event of a stream that has data, over any number of pieces."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._begin = self._searched = 0
        """Where the event begins that is being received, and up to where its end has been looked for."""

    def feed(self, piece: bytes) -> bytes | None:
        """Take bytes from the engine. Returns all that were received once an answer has begun, else None.

        Raises:
            ApiError: the first event is an error, or is of no answer.
            NoAnswerError: there are too many bytes without an event.
        """
        if not self._received and _is_answer(piece):
            return piece
        self._received += piece
        if b"\n" not in piece and b"\r" not in piece:  # most of a long event, which needs no slow search
            return self._wait()
        while (end := EVENT_END.search(self._received, self._searched)) is not None:
            event = bytes(self._received[self._begin : end.end()]).removeprefix(BYTE_ORDER_MARK)
            self._begin = self._searched = end.end()
            if data := data_of(event):
                if (failure := failure_in(data, streamed=True)) is not None:
                    raise failure
                return bytes(self._received)
        return self._wait()

    def _wait(self) -> None:
        self._searched = max(self._begin, len(self._received) - 3)  # an end may be torn
        if len(self._received) > MAX_FIRST_BYTES:
            raise NoAnswerError("a stream without events")

    def end(self) -> bytes:
        """The stream has ended. Returns its bytes if they are an answer whose last event has no end.

        Raises:
            ApiError: they are an error.
            NoAnswerError: there is no answer.
        """
        rest = bytes(self._received[self._begin :]).strip()
        if not (data := data_of(rest) or (rest if rest.startswith(b"{") else b"")):
            raise NoAnswerError("an empty response")
        if (failure := failure_in(data, streamed=True)) is not None:
            raise failure
        return bytes(self._received)


def failure_in(data: bytes, *, streamed: bool) -> ApiError | None:
    """The failure that a response of status 200 or its first event is; None if it is (the beginning of) an answer."""
    payload = parsed(data)
    if payload is None:
        return errors.interrupted("The engine's answer is not JSON.")
    if payload.get("error"):
        return errors.from_event(payload)
    choices = payload.get("choices")
    if objects(choices) or (streamed and isinstance(choices, list)):  # some streams begin without a choice
        return None
    if payload.get("object") == "error":  # an error that is not in a field of its own
        return errors.from_event({"error": payload})
    return errors.interrupted("The engine's answer has no choices.")


def failure_in_body(body: bytes) -> ApiError | None:
    """The failure that a complete response of status 200 is; None if it is an answer.

    It is parsed only if it does not look like an answer: who makes the caller's response parses it anyway.
    """
    if body[:1] == b"{" and b'"error"' not in body and _ANSWER.search(body):
        return None
    return failure_in(body, streamed=False)


def refuses_cap(refusal: ApiError, body: bytes, field: str | None) -> bool:
    """Whether an engine refused the gateway's own field that caps the thinking; None if there is none.

    The caller's fields may quote that name, so a message that names it decides only if the name stands in the body
    once, and if the message is not about another field.
    """
    if field is None or refusal.status not in (400, 422) or f'"{field}":'.encode() not in body:
        return False
    if refusal.param is not None and refusal.param.partition(".")[0] == field:
        return True
    if field not in refusal.message or body.count(field.encode()) > 1:
        return False
    subject = re.match(r"\W*(\w+)", refusal.message)
    return subject is None or subject[1] == field or f'"{subject[1]}":'.encode() not in body


def retry_after(head: bytes) -> int | None:
    """The seconds that a response's head asks to wait, from 1 to 3600; None if it does not say.

    Args:
        head: the first bytes of a response, perhaps after interim ones, and perhaps with some of its body.
    """
    final = next((part for part in _BLANK_LINE.split(head) if not part.startswith(b"HTTP/1.1 1")), b"")
    if (found := _RETRY_AFTER.search(final)) is None:
        return None
    text = found[1].strip().decode("latin-1")
    if re.fullmatch(r"[0-9]+", text):
        seconds = float(text)
    else:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, OverflowError, TypeError, IndexError):
            return None
    return round(min(max(seconds, 1), LONGEST_WAIT_SECONDS))


def _is_answer(piece: bytes) -> bool:
    """Whether the bytes begin with a complete event of an answer, as nearly every stream does."""
    if not piece.startswith(b"data: {"):
        return False
    end = piece.find(b"\n\n")
    return end > 0 and _ANSWER.search(piece, 0, end) is not None and piece.find(b'"error"', 0, end) < 0


def parsed(data: bytes) -> Json | None:
    """A JSON object from an engine; None for anything else, however deep."""
    try:
        return parse_object(data)
    except RecursionError:
        return None
