"""Why did no engine serve a request, and what does the caller get to know of it?"""

from __future__ import annotations

from collections.abc import Sequence

from gateway import errors
from gateway.errors import ApiError

MAX_ANSWER_BYTES = 8 * 2**20
"""Of a non-streaming response, which is parsed as a whole. 32,768 tokens with log probabilities have about 5 MiB."""
BUSY_SECONDS, UNAVAILABLE_SECONDS = 1, 2
"""When to try again if an engine does not say."""


class NoEngineError(Exception):
    """No replica served this checkpoint; the message says what the last one did."""

    def __init__(self, reason: str, error: ApiError | None = None, retry_after: int | None = None) -> None:
        """
        Args:
            error: what the caller gets if no other checkpoint answers either; None for 503.
            retry_after: in how many seconds to try again; None if no replica was tried.
        """
        super().__init__(reason)
        self.error, self.retry_after = error, retry_after


class RefusedCapError(NoEngineError):
    """No replica served this checkpoint, and at least one refused the field that caps the thinking."""


class CapError(Exception):
    """An engine refused the field that caps the thinking."""


class UnavailableError(OSError):
    """A proxy or a starting engine responded, and the engine is not available."""

    def __init__(self, status: int, retry_after: int | None) -> None:
        super().__init__(f"HTTP {status}")
        self.retry_after = retry_after


class NoAnswerError(ApiError):
    """An engine responded with status 200, and what it sent is no answer."""

    def __init__(self, failure: ApiError) -> None:
        super().__init__(failure.status, failure.message, kind=failure.kind, param=failure.param, code=failure.code)


class TooLargeError(ApiError):
    """An answer is larger than the gateway takes. Another replica's would be as large."""

    def __init__(self) -> None:
        message = (
            f"The engine's answer has more than {MAX_ANSWER_BYTES // 2**20} MiB: stream it, or ask for fewer choices or"
            " log probabilities."
        )
        super().__init__(502, message, kind="api_error", code="engine_failed")


Failure = ApiError | OSError | CapError
"""Why one replica did not serve a request."""


def unserved(failures: Sequence[Failure]) -> ApiError | NoEngineError:
    """The error when no replica served a request: 429 if each one tried answered 429, otherwise `NoEngineError`."""
    if not failures:
        return NoEngineError("no engine serves it")
    busy = [failure for failure in failures if isinstance(failure, ApiError) and failure.status == 429]
    if len(busy) == len(failures):
        return errors.busy(busy[-1], min(failure.retry_after or BUSY_SECONDS for failure in busy))
    if any(isinstance(failure, CapError) for failure in failures):
        return RefusedCapError("it cannot cap the thinking")
    engine_failed = [failure for failure in failures if isinstance(failure, NoAnswerError) and failure.status >= 500]
    retry_after = min(_retry_after(failure) or UNAVAILABLE_SECONDS for failure in failures)
    return NoEngineError(describe(failures[-1]), engine_failed[-1] if engine_failed else None, retry_after)


def _retry_after(failure: Failure) -> int | None:
    return failure.retry_after if isinstance(failure, ApiError | UnavailableError) else None


def describe(failure: Failure) -> str:
    """A failure for the log: an engine's message is left out, because it may quote the prompt."""
    if isinstance(failure, NoAnswerError):
        return f"HTTP 200 with an error of status {failure.status} instead of an answer"
    if isinstance(failure, CapError):
        return str(failure)
    return f"HTTP {failure.status}" if isinstance(failure, ApiError) else repr(failure)
