"""What does a request look like in OpenTelemetry's names for generative AI? Attributes of spans and metrics. Pure.

The names are those of `open-telemetry/semantic-conventions-genai`, where the conventions have moved (decision 63).
Nothing here is text of a prompt or an answer. The gateway is a server to its caller (`gen_ai.provider.name` is
`laconic`) and a client of its engines (`vllm`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from gateway.access.cost import Spent
from gateway.ledger.entry import Entry

Value = str | bool | int | float | list[str]
Attributes = dict[str, Value]

GATEWAY, ENGINE = "laconic", "vllm"
"""The providers: who serves the caller, and who serves the gateway."""
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Asked:
    """What a span says of a request."""

    model: str
    """As the caller named it; a request of an unknown model has no such description."""
    operation: str
    """`chat` or `text_completion`."""
    stream: bool
    choices: int
    max_tokens: int | None
    is_text: bool
    """Whether the prompt is text alone."""
    sampling: Mapping[str, float]
    """`temperature` and `top_p`, as far as the caller set them."""
    conversation: str | None
    """The hash of the conversation's id; None if the caller sent none."""


def of_request(asked: Asked) -> Attributes:
    """The attributes that say what was asked."""
    found: dict[str, Value | None] = {
        "gen_ai.operation.name": asked.operation,
        "gen_ai.provider.name": GATEWAY,
        "gen_ai.request.model": asked.model,
        "gen_ai.request.stream": asked.stream or None,
        "gen_ai.request.choice.count": asked.choices if asked.choices != 1 else None,
        "gen_ai.request.max_tokens": asked.max_tokens,
        **{f"gen_ai.request.{name}": value for name, value in asked.sampling.items()},
        "gen_ai.conversation.id": asked.conversation,
    }
    return known(found)


def of_response(entry: Entry) -> Attributes:
    """The attributes that say how it ended."""
    spent = Spent(entry.prompt_tokens, entry.cached_tokens or 0, entry.reasoning_tokens, entry.answer_tokens)
    found: dict[str, Value | None] = {
        "gen_ai.response.model": entry.checkpoint,
        "gen_ai.response.finish_reasons": finish_reasons(entry),
        "gen_ai.response.time_to_first_chunk": entry.first_token_seconds,
        "laconic.decision": entry.decision,
        "laconic.alpha": entry.alpha,
        "laconic.difficulty": entry.difficulty,
        "laconic.budget": entry.budget,
        "laconic.key": entry.key or None,
        "laconic.team": entry.team or None,
        "error.type": entry.error or None,
    }
    return of_usage(spent, cached=entry.cached_tokens is not None) | known(found)


def of_usage(spent: Spent, *, cached: bool) -> Attributes:
    """The attributes of tokens; `cached` says whether the engine told how much it had in its cache."""
    return {
        "gen_ai.usage.input_tokens": spent.prompt,
        "gen_ai.usage.output_tokens": spent.reasoning + spent.answer,
        "gen_ai.usage.reasoning.output_tokens": spent.reasoning,
        **({"gen_ai.usage.cache_read.input_tokens": spent.cached} if cached else {}),
    }


def finish_reasons(entry: Entry) -> list[str]:
    """Why the generation ended: `error` if it broke off."""
    return [entry.finish_reason or "error"]


def of_engine(url: str) -> Attributes:
    """Where an engine is: its host and port, and nothing else of its URL."""
    parts = urlsplit(url)
    port = parts.port or _PORTS.get(parts.scheme)
    return known({"server.address": parts.hostname, "server.port": port})


def known(attributes: Mapping[str, Value | None]) -> Attributes:
    """The attributes that have a value."""
    return {name: value for name, value in attributes.items() if value is not None}
