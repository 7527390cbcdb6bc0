"""What is an engine asked? The caller's body, with the checkpoint's overrides and one cap on thinking."""

from __future__ import annotations

from dataclasses import replace

from gateway.request.budget import BUDGET_FIELDS, Budget, forbids_thinking, leave_room
from gateway.request.question import Body, Question
from models.family import Checkpoint
from models.overrides import with_cap, with_overrides


def engine_body(
    question: Question, checkpoint: Checkpoint, model: str, budget: Budget, *, logprobs: bool = False
) -> Body:
    """The body for an engine.

    Args:
        question: the caller's request.
        checkpoint: what is asked of the model.
        model: the engine's name for it.
        budget: the caller's cap; the checkpoint may have a lower one.
        logprobs: ask for each token's probability, by which an escalation is decided.
    """
    tokens = min((cap for cap in (budget.tokens, checkpoint.budget) if cap is not None), default=None)
    body = {name: value for name, value in question.body.items() if name not in BUDGET_FIELDS}
    body["model"] = model
    if tokens == 0:
        # With the cap alone the model would open its thinking first; the template's empty thinking prevents that.
        body["chat_template_kwargs"] = {"enable_thinking": False} | (body.get("chat_template_kwargs") or {})
    elif forbids_thinking(body):  # a budget of 0 that a budget of a higher level overrules
        kwargs = {name: value for name, value in body["chat_template_kwargs"].items() if name != "enable_thinking"}
        body["chat_template_kwargs"] = kwargs
    if question.stream:
        body["stream_options"] = (body.get("stream_options") or {}) | {"include_usage": True}
    if body.get("include_reasoning") is False:  # reasoning must arrive to be counted; it is removed on the way back
        body["include_reasoning"] = True
    if logprobs:
        body["logprobs"] = True
    body = with_overrides(body, checkpoint.overrides)
    return body if tokens is None else with_cap(body, checkpoint.cap, tokens)


def capped_by_length(body: Body) -> Body:
    """The body for an engine that refuses to cap the thinking. The whole completion is as long as the cap at most.

    The thinking cannot exceed the cap then. A completion that is cut off ends with `finish_reason: length`.
    """
    limited = {name: value for name, value in body.items() if name != "thinking_token_budget"}
    tokens: int = body["thinking_token_budget"]
    if tokens == 0:  # the template's empty thinking is the cap
        return limited
    field = "max_tokens" if body.get("max_completion_tokens") is None else "max_completion_tokens"
    limited[field] = min(tokens, body.get(field) or tokens)
    return limited


def shortened(question: Question, budget: Budget, reasoning_tokens: int, tokens: int) -> tuple[Question, Budget] | None:
    """The question and budget that remain after so many tokens, reasoning among them; None if thinking is over."""
    left = None if budget.tokens is None else budget.tokens - reasoning_tokens
    most = None if question.max_tokens is None else question.max_tokens - tokens
    if any(remaining is not None and remaining <= 0 for remaining in (left, most)):
        return None
    limits = {name: most for name in ("max_tokens", "max_completion_tokens") if question.body.get(name) is not None}
    remaining = leave_room(replace(budget, tokens=left), most)
    if remaining.tokens == 0:
        return None
    return replace(question, max_tokens=most, body=question.body | limits), remaining
