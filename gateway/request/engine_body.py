"""What is an engine asked? The caller's body, with the checkpoint's overrides and one cap on thinking."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gateway.request.budget import Budget, forbids_thinking, leave_room
from gateway.request.dialects import BUDGET_FIELDS, TEMPLATE_SWITCHES
from gateway.request.question import Body, Question
from models.continued import LIMITS
from models.continued import continued as continue_message
from models.family import Checkpoint, Reasoning
from models.overrides import with_cap, with_overrides


def cap_of(question: Question, budget: Budget, checkpoint: Checkpoint) -> int | None:
    """The most reasoning tokens of one choice: the caller's budget, the checkpoint's own, or what leaves room.

    Under `max_tokens` there is room for the checkpoint's answer, if its length was measured. None is no cap.
    """
    most = question.max_tokens
    room = None if most is None or checkpoint.answer_tokens is None else max(0, most - checkpoint.answer_tokens)
    room = None if checkpoint.cap == "none" else room  # its thinking is its answer
    return min((cap for cap in (budget.tokens, checkpoint.budget, room) if cap is not None), default=None)


def engine_body(
    question: Question, checkpoint: Checkpoint, model: str, cap: int | None, *, logprobs: bool = False
) -> Body:
    """The body for an engine, but for the field that caps the thinking (`capped`).

    Args:
        question: the caller's request.
        checkpoint: what is asked of the model.
        model: the engine's name for it.
        cap: the cap on thinking, as `cap_of` returns it.
        logprobs: ask for each token's probability, by which an escalation is decided.
    """
    body = {name: value for name, value in question.body.items() if name not in BUDGET_FIELDS}
    body["model"] = model
    if cap == 0:
        # With the cap alone the model would open its thinking first; the template's empty thinking prevents that.
        kwargs: dict[str, Any] = body.get("chat_template_kwargs") or {}
        switches = {name: False for name in TEMPLATE_SWITCHES if name in kwargs}
        body["chat_template_kwargs"] = {"enable_thinking": False} | kwargs | switches
    elif forbids_thinking(body):  # a budget of 0 that a budget of a higher level overrules
        kwargs = body["chat_template_kwargs"]
        body["chat_template_kwargs"] = {name: kwargs[name] for name in kwargs if name not in TEMPLATE_SWITCHES}
    if question.stream:
        body["stream_options"] = (body.get("stream_options") or {}) | {"include_usage": True}
    if body.get("include_reasoning") is False:  # reasoning must arrive to be counted; it is removed on the way back
        body["include_reasoning"] = True
    if logprobs:
        body["logprobs"] = True
    return with_overrides(body, checkpoint.overrides)


def capped(body: Body, checkpoint: Checkpoint, cap: int) -> tuple[Body, str | None]:
    """The body with the checkpoint's own field for a cap, and that field; None if its engines have none."""
    if checkpoint.cap in ("forced", "none"):
        return body, None
    return with_cap(body, checkpoint.cap, cap), checkpoint.cap.partition(".")[0]


def streamed(body: Body) -> Body:
    """The body for a stream."""
    return body | {"stream": True, "stream_options": (body.get("stream_options") or {}) | {"include_usage": True}}


def continued(body: Body, thinking: str, tokens: int, marks: Reasoning) -> Body:
    """The body that continues the message behind its thinking, which had so many tokens."""
    spent = tokens + 1  # with the mark behind it
    return continue_message(body, f"{marks.start}{thinking}{marks.end}", spent)


_PER_RESPONSE_FIELDS = ("prompt_logprobs", "return_token_ids", "logprob_token_ids")
"""What an engine reports of one response; two of them cannot be joined."""


def can_be_continued(question: Question) -> bool:
    """Whether a message of this request can go on in another request."""
    return question.choices == 1 and not any(map(question.body.get, _PER_RESPONSE_FIELDS))


def offers_tools(question: Question) -> bool:
    """Whether the model may call a tool."""
    return any(map(question.body.get, ("tools", "functions")))


def is_structured(body: Body) -> bool:
    """Whether the first token is bound by a grammar: an engine without a reasoning parser then lets nothing be thought.

    With a parser, the grammar begins behind the thinking, which comes apart.
    """
    format_ = body.get("response_format")
    kind = format_.get("type") if isinstance(format_, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    choice = body.get("tool_choice")
    return kind not in (None, "text") or bool(body.get("structured_outputs")) or choice not in (None, "auto", "none")


def capped_by_length(body: Body, cap: int) -> Body:
    """The body for an engine that cannot cap the thinking of several choices: each is as long as the cap at most.

    The thinking cannot exceed the cap then. A completion that is cut off ends with `finish_reason: length`.
    """
    if cap == 0:  # the template's empty thinking is the cap
        return body
    field = "max_tokens" if body.get("max_completion_tokens") is None else "max_completion_tokens"
    return {**body, field: min(cap, body.get(field) or cap)}


def shortened(
    question: Question, budget: Budget, reasoning_tokens: int, tokens: int, answer_tokens: int | None = None
) -> tuple[Question, Budget] | None:
    """The question and budget that remain after so many tokens, reasoning among them; None if thinking is over.

    Args:
        answer_tokens: the room that the answer needs, if it was measured.
    """
    left = None if budget.tokens is None else budget.tokens - reasoning_tokens
    most = None if question.max_tokens is None else question.max_tokens - tokens
    if any(remaining is not None and remaining <= 0 for remaining in (left, most)):
        return None
    limits = {name: most for name in LIMITS if question.body.get(name) is not None}
    remaining = leave_room(replace(budget, tokens=left), most, answer_tokens)
    if remaining.tokens == 0:
        return None
    return replace(question, max_tokens=most, body=question.body | limits), remaining
