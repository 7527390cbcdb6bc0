"""How much may this request think? Turns headers and body into a `Budget`; pure.

In order of precedence. Every level is checked even if a higher one decides, so that no malformed value is ignored:

1. header `X-Reasoning-Budget`
2. body `thinking_token_budget`, `reasoning` {max_tokens | effort}, `thinking` {type, budget_tokens}, and
   `chat_template_kwargs` {enable_thinking: false}, which is a budget of 0
3. body `reasoning_effort`
4. the key's default, or else the operator's; `chat.py` passes whichever applies, and the source is `default_budget`

Effort names are quantiles of the reasoning tokens that the reference checkpoint was measured to spend, over all
difficulties. `medium` is the median, `high` the 90th percentile, and `max` is no cap.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, cast

from gateway.errors import BadRequestError
from models.family import Family

HEADER = "X-Reasoning-Budget"
POLICY_HEADER = "X-Reasoning-Budget-Policy"
BUDGET_FIELDS: tuple[str, ...] = ("thinking_token_budget", "reasoning", "thinking", "reasoning_effort")
"""The body's fields that this module turns into one cap. None of them is passed on."""
MAX_BUDGET = 2**31 - 1
LEAST_ANSWER_TOKENS, MOST_ANSWER_TOKENS = 16, 256

QuantileName = Literal["p05", "p25", "p50", "p90", "p99"]
Policy = Literal["cap", "reject"]

EFFORTS: dict[str, QuantileName | int | None] = {
    "none": 0,
    "minimal": "p05",
    "low": "p25",
    "medium": "p50",
    "high": "p90",
    "xhigh": "p99",
    "max": None,
}


class Headers(Protocol):
    """The part of Starlette's headers that is needed: all values of a name, whatever its case."""

    def getlist(self, key: str) -> list[str]: ...


@dataclass(frozen=True)
class Budget:
    """A cap on reasoning tokens."""

    tokens: int | None
    """None means no cap."""
    source: str
    """The header, field or setting that set it."""
    policy: Policy = "cap"
    asked: int | None = field(default=None, compare=False)
    """The cap that `max_tokens` has lowered, to leave room for the answer; None if it has not."""
    left_by_max_tokens: int | None = field(default=None, compare=False)
    """The most thinking that leaves room for an answer; None if nothing limits the completion."""
    answer_tokens: int | None = field(default=None, compare=False)
    """The room that an answer needs, if it was measured."""

    @property
    def param(self) -> str:
        """The header or field that a caller would change."""
        return HEADER if self.source == "default_budget" else self.source

    def __str__(self) -> str:
        return "unlimited" if self.tokens is None else str(self.tokens)


def parse(headers: Headers, body: Mapping[str, Any], default: str, family: Family) -> Budget:
    """What the caller may spend on thinking.

    Raises:
        BadRequestError: a value is malformed, or two values of one level contradict each other; names header or fields.
    """
    policy = _policy(headers)
    levels = (_from_header(headers, family), _from_fields(body, family), _from_effort(body, family))
    for level in levels:
        if level is not None:
            source, tokens = level
            return Budget(tokens, source, policy)
    return Budget(parse_budget_text(default, "default_budget", family), "default_budget", policy)


def most_thinking(max_tokens: int) -> int:
    """The most reasoning tokens of a completion that leave room for its answer.

    The room is a tenth of `max_tokens`, but 16 to 256 tokens: a family's figures do not say how long its answers are.
    """
    room = max(LEAST_ANSWER_TOKENS, min(MOST_ANSWER_TOKENS, math.ceil(max_tokens / 10)))
    return max(0, max_tokens - room)


def least_max_tokens(thinking: int, answer_tokens: int | None = None) -> int:
    """The smallest `max_tokens` that leaves room for so much thinking and an answer, of a measured length or of any."""
    if answer_tokens is not None:
        return thinking + answer_tokens
    most = thinking + LEAST_ANSWER_TOKENS
    while most_thinking(most) < thinking:
        most += thinking - most_thinking(most)
    return most


def leave_room(budget: Budget, max_tokens: int | None, answer_tokens: int | None = None) -> Budget:
    """The budget, lowered if it would let thinking use up `max_tokens`.

    Without a measured length of the answers, no cap stays no cap: a guess must not cut off a thinking.
    """
    if max_tokens is None:
        return budget
    most = most_thinking(max_tokens) if answer_tokens is None else max(0, max_tokens - answer_tokens)
    left = replace(budget, left_by_max_tokens=most, answer_tokens=answer_tokens)
    if budget.tokens is None:
        return left if answer_tokens is None else replace(left, tokens=most)
    return left if budget.tokens <= most else replace(left, tokens=most, asked=budget.asked or budget.tokens)


def least_room(answers: Iterable[int | None], max_tokens: int | None) -> int | None:
    """The least room that any of these checkpoints' answers needs; None if it is the rule's, for one not measured.

    The cap of the checkpoint that is chosen may be lower, never higher.
    """
    if max_tokens is None:
        return None
    rule = max_tokens - most_thinking(max_tokens)
    rooms = [(rule if tokens is None else tokens, tokens is None) for tokens in answers]
    tokens, is_rule = min(rooms, default=(rule, True))
    return None if is_rule else tokens


def parse_budget_text(text: str, param: str, family: Family) -> int | None:
    """The cap in a header or a setting: a whole number of tokens, an effort's name, or `auto`."""
    normalized = text.strip().lower()
    if normalized == "auto":
        return None
    if normalized in EFFORTS:
        return _effort(normalized, param, family)
    if not re.fullmatch(r"[0-9]+", normalized):
        raise BadRequestError(
            f"{param} must be a whole number of reasoning tokens, auto, or one of {_names()}; got {text!r}", param
        )
    return _validate_tokens(_parse_digits(normalized), param, original_text=text[:40])


def validate_budget(text: str) -> str:
    """The text itself if it is a valid budget: a validator for configuration.

    Raises:
        ValueError: it is neither a number of tokens nor a budget's name.
    """
    if not re.fullmatch(rf"auto|{'|'.join(EFFORTS)}|[0-9]+", text):
        raise ValueError(f"{text!r} is neither a whole number of tokens nor one of auto, {_names()}")
    if text.isdecimal() and _parse_digits(text) > MAX_BUDGET:
        raise ValueError(f"{text[:40]!r} is more than {MAX_BUDGET} tokens")
    return text


def forbids_thinking(body: Mapping[str, Any]) -> bool:
    """Whether the body asks the chat template to leave the thinking empty."""
    kwargs = body.get("chat_template_kwargs")
    return isinstance(kwargs, dict) and cast("dict[str, Any]", kwargs).get("enable_thinking") is False


def _parse_digits(digits: str) -> int:
    """The number; for digits too long to parse cheaply, one that is too large for a budget."""
    significant = digits.lstrip("0")
    return int(significant or "0") if len(significant) <= 10 else MAX_BUDGET + 1


def _from_header(headers: Headers, family: Family) -> tuple[str, int | None] | None:
    text = _single(headers, HEADER)
    return None if text is None else (HEADER, parse_budget_text(text, HEADER, family))


def _from_fields(body: Mapping[str, Any], family: Family) -> tuple[str, int | None] | None:
    budgets: dict[str, int | None] = {}
    if (value := body.get("thinking_token_budget")) is not None:
        budgets["thinking_token_budget"] = _validate_tokens(value, "thinking_token_budget")
    if (reasoning := _object(body, "reasoning", {"max_tokens", "effort"})) is not None:
        if (value := reasoning.get("max_tokens")) is not None:
            budgets["reasoning.max_tokens"] = _validate_tokens(value, "reasoning.max_tokens")
        if (value := reasoning.get("effort")) is not None:
            budgets["reasoning.effort"] = _effort(value, "reasoning.effort", family)
        if not any(field.startswith("reasoning.") for field in budgets):
            raise BadRequestError("reasoning must have max_tokens or effort", "reasoning")
    if (thinking := _object(body, "thinking", {"type", "budget_tokens"})) is not None:
        field, tokens = _thinking(thinking)
        budgets[field] = tokens
    if forbids_thinking(body):
        budgets["chat_template_kwargs.enable_thinking"] = 0
    if len(set(budgets.values())) > 1:
        fields = " and ".join(budgets)
        raise BadRequestError(f"{fields} contradict each other: set only one of them", fields)
    return next(iter(budgets.items()), None)


def _from_effort(body: Mapping[str, Any], family: Family) -> tuple[str, int | None] | None:
    effort = body.get("reasoning_effort")
    return None if effort is None else ("reasoning_effort", _effort(effort, "reasoning_effort", family))


def _thinking(thinking: dict[str, Any]) -> tuple[str, int | None]:
    kind, tokens = thinking.get("type"), thinking.get("budget_tokens")
    if kind == "disabled":
        if tokens is not None:
            raise BadRequestError(
                "thinking.type disabled and thinking.budget_tokens contradict each other: leave out one of them",
                "thinking",
            )
        return "thinking.type", 0
    if kind != "enabled":
        raise BadRequestError(f"thinking.type must be enabled or disabled, got {kind!r}", "thinking.type")
    if tokens is None:
        raise BadRequestError(
            "thinking.budget_tokens is missing: set it to a number of tokens, or leave out thinking",
            "thinking.budget_tokens",
        )
    return "thinking.budget_tokens", _validate_tokens(tokens, "thinking.budget_tokens")


def _policy(headers: Headers) -> Policy:
    text = _single(headers, POLICY_HEADER)
    if text is None:
        return "cap"
    policy = text.strip().lower()
    if policy not in ("cap", "reject"):
        raise BadRequestError(f"{POLICY_HEADER} must be cap or reject, got {text!r}", POLICY_HEADER)
    return policy


def _single(headers: Headers, name: str) -> str | None:
    values = headers.getlist(name)
    if len(values) > 1:
        raise BadRequestError(f"{name} was sent {len(values)} times: send it only once", name)
    return values[0] if values else None


def _object(body: Mapping[str, Any], field: str, allowed_fields: set[str]) -> dict[str, Any] | None:
    value = body.get(field)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise BadRequestError(
            f"{field} must be an object with {' or '.join(sorted(allowed_fields))}, got {value!r}", field
        )
    given = cast("dict[str, Any]", value)
    if unknown := sorted(given.keys() - allowed_fields):
        raise BadRequestError(
            f"{field}.{unknown[0]} is unknown; {field} takes {', '.join(sorted(allowed_fields))}",
            f"{field}.{unknown[0]}",
        )
    return given


def _validate_tokens(value: object, param: str, *, original_text: str | None = None) -> int:
    """The value if it is a valid cap. The error quotes `original_text` instead of the value, if given."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_BUDGET:
        got = value if original_text is None else original_text
        raise BadRequestError(
            f"{param} must be a whole number of reasoning tokens from 0 to {MAX_BUDGET}, got {got!r}", param
        )
    return value


def _effort(value: object, param: str, family: Family) -> int | None:
    if not isinstance(value, str) or value not in EFFORTS:
        raise BadRequestError(f"{param} must be one of {_names()}; got {value!r}", param)
    level = EFFORTS[value]
    if level is None or isinstance(level, int):
        return level
    return math.ceil(family.checkpoint(family.reference).frontier.overall.quantiles[level])


def _names() -> str:
    return ", ".join(EFFORTS)
