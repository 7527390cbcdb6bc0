"""How much may this request think? Turns headers and body into a `Budget`; pure.

In order of precedence. Every level is checked even if a higher one decides, so that no malformed value is ignored:

1. header `X-Reasoning-Budget`
2. the body's fields with a number or a switch, of any dialect (`dialects.py`)
3. the body's fields with an effort's name alone, such as `reasoning_effort`
4. the key's default, or else the operator's; `chat.py` passes whichever applies, and the source is `default_budget`

Effort names are quantiles of the reasoning tokens that the reference checkpoint was measured to spend, over all
difficulties. `medium` is the median, `high` the 90th percentile, and `max` is no cap.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, cast

from gateway.errors import BadRequestError
from gateway.request import dialects
from gateway.request.dialects import MAX_BUDGET, TEMPLATE_SWITCHES, validate_tokens
from models.family import Family

HEADER = "X-Reasoning-Budget"
POLICY_HEADER = "X-Reasoning-Budget-Policy"
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
    is_open: bool = field(default=False, compare=False)
    """Nobody asked for a number: `tokens` is what `max_tokens` leaves beside an answer."""
    is_ignored: bool = field(default=False, compare=False)
    """A number was asked for, and nothing can end the thinking of this family's checkpoints there."""

    @property
    def param(self) -> str:
        """The header or field that a caller would change."""
        return HEADER if self.source == "default_budget" else self.source

    def limit(self, max_tokens: int | None) -> int | None:
        """Maximum reasoning tokens: thinking cannot be longer than the whole completion may be."""
        return min((tokens for tokens in (self.tokens, max_tokens) if tokens is not None), default=None)

    def __str__(self) -> str:
        return "unlimited" if self.tokens is None else str(self.tokens)


def parse(headers: Headers, body: Mapping[str, Any], default: str, family: Family) -> Budget:
    """What the caller may spend on thinking.

    Raises:
        BadRequestError: a value is malformed, or two values of one level contradict each other; names header or fields.
    """
    policy = _policy(headers)
    default_tokens = parse_budget_text(default, "default_budget", family)
    for level in (_from_header(headers, family), _from_body(body, family, default_tokens)):
        if level is not None:
            source, tokens = level
            return Budget(tokens, source, policy)
    return Budget(default_tokens, "default_budget", policy)


def agree(
    headers: Headers,
    body: Mapping[str, Any],
    default: str,
    family: Family,
    *,
    names: Collection[str],
    max_tokens: int | None,
) -> Budget:
    """The budget of a request, lowered where it leaves no room for an answer.

    If nothing can end the thinking of whatever may answer, a number has no effect but 0, which the chat template gets.

    Args:
        names: the checkpoints that may answer.

    Raises:
        BadRequestError: as `parse` raises.
    """
    budget = parse(headers, body, default, family)
    capped = family.capped(names)
    if budget.tokens and not capped:
        budget = replace(budget, tokens=None, is_ignored=True)
    return leave_room(budget, max_tokens, least_room([one.answer_tokens for one in capped], max_tokens))


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
        return left if answer_tokens is None else replace(left, tokens=most, is_open=True)
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
        return _effort(normalized, family)
    if not re.fullmatch(r"[0-9]+", normalized):
        raise BadRequestError(
            f"{param} must be a whole number of reasoning tokens, auto, or one of {_names()}; got {text!r}", param
        )
    return validate_tokens(_parse_digits(normalized), param, original_text=text[:40])


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
    if not isinstance(kwargs, dict):
        return False
    return any(cast("dict[str, Any]", kwargs).get(name) is False for name in TEMPLATE_SWITCHES)


def _parse_digits(digits: str) -> int:
    """The number; for digits too long to parse cheaply, one that is too large for a budget."""
    significant = digits.lstrip("0")
    return int(significant or "0") if len(significant) <= 10 else MAX_BUDGET + 1


def _from_header(headers: Headers, family: Family) -> tuple[str, int | None] | None:
    text = _single(headers, HEADER)
    return None if text is None else (HEADER, parse_budget_text(text, HEADER, family))


def _from_body(body: Mapping[str, Any], family: Family, default: int | None) -> tuple[str, int | None] | None:
    """What the fields of the body say, if they say how much. `on` alone leaves that to the default."""
    statements = dialects.said(body)
    for level in ("field", "effort"):
        amounts = {
            one.field: one.value if isinstance(one.value, int) else _effort(one.value, family)
            for one in statements
            if one.level == level and one.value not in ("auto", "on")
        }
        switched_on = [one.field for one in statements if one.value == "on"]
        _require_agreement(amounts, switched_on if level == "field" else [])
        if amounts:
            return next(iter(amounts.items()))
    undecided = next((one for one in statements if one.value == "auto"), None)
    if undecided is None and default == 0:  # the caller wants it to think after all
        undecided = next(iter(statements), None)
    return None if undecided is None else (undecided.field, None)


def _require_agreement(amounts: Mapping[str, int | None], switched_on: Sequence[str]) -> None:
    fields = list(amounts)
    if 0 in amounts.values():
        fields += switched_on
    if len(set(amounts.values())) > 1 or len(fields) > len(amounts):
        names = " and ".join(fields)
        raise BadRequestError(f"{names} contradict each other: set only one of them", names)


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


def _effort(name: str, family: Family) -> int | None:
    level = EFFORTS[name]
    if level is None or isinstance(level, int):
        return level
    return math.ceil(family.checkpoint(family.reference).frontier.overall.quantiles[level])


def _names() -> str:
    return ", ".join(EFFORTS)
