"""What does a caller get that does not stream? The engine's response with its usage completed. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from gateway import errors
from gateway.answer.cost import Cost, Terms, cost_of
from gateway.answer.hiding import visible_response
from gateway.answer.transcript import MAX_FINISH_REASON, Transcript
from gateway.events import Json, UnreadableError, encode_json, line_of, objects, read_object


@dataclass(frozen=True)
class Completion:
    """A non-streaming response for the caller, and what it cost."""

    body: bytes
    said: Json
    """What the engine responded."""
    cost: Cost
    finish_reason: str


def completion(body: bytes, terms: Terms, *, hides_reasoning: bool) -> Completion:
    """An engine's response for the caller; unchanged if nothing has to be filled in, corrected or removed.

    Args:
        terms: what is known of the request, for its cost.
        hides_reasoning: the caller does not want to see the thinking.

    Raises:
        ApiError: 502, the response is not a JSON object, or an error.
    """
    response, exact = read_object(body)
    if response is None:
        raise errors.interrupted("The engine's response is not JSON.")
    if response.get("error") and not response.get("choices"):
        raise errors.from_event(response)
    transcript = Transcript()
    transcript.add_response(response)
    cost = cost_of(response.get("usage"), transcript, terms)
    changed = cost.counting != "reported" or cost.budget_hit or hides_reasoning or not exact
    reason = ""
    for choice in objects(response.get("choices")):
        reason = line_of(choice.get("finish_reason"), MAX_FINISH_REASON)
        if isinstance(choice.get("finish_reason"), str) and reason != choice["finish_reason"]:
            choice["finish_reason"], changed = reason, True
    if changed:
        shown = visible_response(response, terms.marks, thinks=terms.thinks) if hides_reasoning else response
        try:
            body = encode_json({**shown, "usage": cost.usage})
        except UnreadableError:
            raise errors.interrupted("The engine's response is nested too deeply.") from None
    return Completion(body, response, cost, reason)
