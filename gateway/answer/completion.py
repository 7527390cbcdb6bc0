"""What does a caller get that does not stream? The engine's response with its usage completed. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from gateway import errors
from gateway.answer.usage import TokenUsage, Transcript, hide_reasoning
from gateway.events import Json, objects, parse_object


@dataclass(frozen=True)
class Completion:
    """A non-streaming response for the caller, and what it cost."""

    body: bytes
    usage: TokenUsage
    finish_reason: str


def completion(
    body: bytes, complete_usage: Callable[[object, Transcript], Json], *, hides_reasoning: bool
) -> Completion:
    """An engine's response for the caller; unchanged if nothing has to be filled in or removed.

    Args:
        complete_usage: fills in what the engine's usage leaves out.
        hides_reasoning: the caller does not want to see the thinking.

    Raises:
        ApiError: 502, the response is not a JSON object.
    """
    response = parse_object(body)
    if response is None:
        raise errors.interrupted("The engine's response is not JSON.")
    transcript = Transcript()
    transcript.add_response(response)
    reported = response.get("usage")
    usage = complete_usage(reported, transcript)
    hidden = hides_reasoning and hide_reasoning(response, "message")
    if usage is not reported or hidden:
        body = json.dumps({**response, "usage": usage}).encode()
    reasons = [str(choice.get("finish_reason") or "") for choice in objects(response.get("choices"))]
    return Completion(body, TokenUsage.of(usage), reasons[-1] if reasons else "")
