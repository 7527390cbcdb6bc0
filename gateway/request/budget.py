"""How much may this request think? Headers and body to a `Budget`; pure.

In order of precedence, each level checked even where a higher one decides, so that nothing malformed is ignored:

1. header `X-Reasoning-Budget`
2. body `thinking_token_budget`, `reasoning` {max_tokens | effort}, `thinking` {type, budget_tokens}, and
   `chat_template_kwargs` {enable_thinking: false}, which is a budget of 0
3. body `reasoning_effort`
4. the operator's default

Effort names stand for what the family was measured to spend: the quantiles of the reference checkpoint's reasoning
tokens over all difficulties. `medium` covers half of all questions, `high` nine of ten, `max` does not cap.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

from gateway.errors import BadRequestError
from models.family import Family

HEADER = "X-Reasoning-Budget"
POLICY_HEADER = "X-Reasoning-Budget-Policy"
CONSUMED: tuple[str, ...] = ("thinking_token_budget", "reasoning", "thinking", "reasoning_effort")
"""The body's fields that this module turns into one cap; none of them goes on as it came."""
LARGEST = 2**31 - 1

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
    """What is needed of Starlette's headers: all values of a name, whatever its case."""

    def getlist(self, key: str) -> list[str]: ...


@dataclass(frozen=True)
class Budget:
    """`tokens` is the cap on reasoning tokens, None for no cap; `source` is the header or field that set it."""

    tokens: int | None
    source: str
    policy: Policy = "cap"

    @property
    def param(self) -> str:
        """What a caller can change about it."""
        return HEADER if self.source == "default_budget" else self.source

    def __str__(self) -> str:
        return "unlimited" if self.tokens is None else str(self.tokens)


def parse(headers: Headers, body: Mapping[str, Any], default: str, family: Family) -> Budget:
    """What the caller may spend on thinking.

    Raises:
        BadRequestError: a value that is malformed, or two on one level that contradict each other; names the culprits.
    """
    policy = _policy(headers)
    levels = (_from_header(headers, family), _from_fields(body, family), _from_effort(body, family))
    for level in levels:
        if level is not None:
            source, tokens = level
            return Budget(tokens, source, policy)
    return Budget(from_text(default, "default_budget", family), "default_budget", policy)


def from_text(text: str, param: str, family: Family) -> int | None:
    """A budget as written in a header or a setting: a whole number of tokens, an effort's name, or `auto`."""
    word = text.strip().lower()
    if word == "auto":
        return None
    if word in EFFORTS:
        return _effort(word, param, family)
    if not re.fullmatch(r"[0-9]+", word):
        raise BadRequestError(
            f"{param} must be a whole number of reasoning tokens, auto, or one of {_names()}; got {text!r}", param
        )
    return _tokens(_number(word), param, said=text[:40])


def word(text: str) -> str:
    """The same text, where it may be a budget.

    Raises:
        ValueError: it is neither a number of tokens nor a budget's name.
    """
    if not re.fullmatch(rf"auto|{'|'.join(EFFORTS)}|[0-9]+", text):
        raise ValueError(f"{text!r} is neither a whole number of tokens nor one of auto, {_names()}")
    if text.isdecimal() and _number(text) > LARGEST:
        raise ValueError(f"{text[:40]!r} is more than {LARGEST} tokens")
    return text


def forbids_thinking(body: Mapping[str, Any]) -> bool:
    """Whether the chat template is told to leave the thinking empty."""
    kwargs = body.get("chat_template_kwargs")
    return isinstance(kwargs, dict) and cast("dict[str, Any]", kwargs).get("enable_thinking") is False


def _number(digits: str) -> int:
    """As a number; one that is too long to be a budget as one that is too large."""
    significant = digits.lstrip("0")
    return int(significant or "0") if len(significant) <= 10 else LARGEST + 1


def _from_header(headers: Headers, family: Family) -> tuple[str, int | None] | None:
    text = _single(headers, HEADER)
    return None if text is None else (HEADER, from_text(text, HEADER, family))


def _from_fields(body: Mapping[str, Any], family: Family) -> tuple[str, int | None] | None:
    said: dict[str, int | None] = {}
    if (value := body.get("thinking_token_budget")) is not None:
        said["thinking_token_budget"] = _tokens(value, "thinking_token_budget")
    if (reasoning := _object(body, "reasoning", {"max_tokens", "effort"})) is not None:
        if (value := reasoning.get("max_tokens")) is not None:
            said["reasoning.max_tokens"] = _tokens(value, "reasoning.max_tokens")
        if (value := reasoning.get("effort")) is not None:
            said["reasoning.effort"] = _effort(value, "reasoning.effort", family)
        if not any(field.startswith("reasoning.") for field in said):
            raise BadRequestError("reasoning needs max_tokens or effort", "reasoning")
    if (thinking := _object(body, "thinking", {"type", "budget_tokens"})) is not None:
        field, tokens = _thinking(thinking)
        said[field] = tokens
    if forbids_thinking(body):
        said["chat_template_kwargs.enable_thinking"] = 0
    if len(set(said.values())) > 1:
        fields = " and ".join(said)
        raise BadRequestError(f"{fields} contradict each other: set one of them", fields)
    return next(iter(said.items()), None)


def _from_effort(body: Mapping[str, Any], family: Family) -> tuple[str, int | None] | None:
    effort = body.get("reasoning_effort")
    return None if effort is None else ("reasoning_effort", _effort(effort, "reasoning_effort", family))


def _thinking(thinking: dict[str, Any]) -> tuple[str, int | None]:
    kind, tokens = thinking.get("type"), thinking.get("budget_tokens")
    if kind == "disabled":
        if tokens is not None:
            raise BadRequestError("thinking.type disabled and thinking.budget_tokens contradict each other", "thinking")
        return "thinking.type", 0
    if kind != "enabled":
        raise BadRequestError(f"thinking.type must be enabled or disabled, got {kind!r}", "thinking.type")
    if tokens is None:
        raise BadRequestError("thinking.budget_tokens is missing", "thinking.budget_tokens")
    return "thinking.budget_tokens", _tokens(tokens, "thinking.budget_tokens")


def _policy(headers: Headers) -> Policy:
    text = _single(headers, POLICY_HEADER)
    if text is None:
        return "cap"
    word = text.strip().lower()
    if word not in ("cap", "reject"):
        raise BadRequestError(f"{POLICY_HEADER} must be cap or reject, got {text!r}", POLICY_HEADER)
    return word


def _single(headers: Headers, name: str) -> str | None:
    values = headers.getlist(name)
    if len(values) > 1:
        raise BadRequestError(f"{name} was sent {len(values)} times: send it once", name)
    return values[0] if values else None


def _object(body: Mapping[str, Any], field: str, known: set[str]) -> dict[str, Any] | None:
    value = body.get(field)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise BadRequestError(f"{field} must be an object with {' or '.join(sorted(known))}, got {value!r}", field)
    given = cast("dict[str, Any]", value)
    if unknown := sorted(given.keys() - known):
        raise BadRequestError(
            f"{field}.{unknown[0]} is not known; {field} takes {', '.join(sorted(known))}", f"{field}.{unknown[0]}"
        )
    return given


def _tokens(value: object, param: str, *, said: str | None = None) -> int:
    """The value, where it may be a budget; `said` is how the caller wrote it, where that is another thing."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST:
        got = value if said is None else said
        raise BadRequestError(
            f"{param} must be a whole number of reasoning tokens from 0 to {LARGEST}, got {got!r}", param
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
