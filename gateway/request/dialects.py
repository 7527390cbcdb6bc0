"""How do callers say what may be thought? Reads the fields of every dialect; pure.

OpenAI, OpenRouter, Anthropic, Gemini, Qwen, vLLM, SGLang, llama.cpp and chat templates each have their own. A field
says one of four things: a number of tokens, the name of an effort (`max` is no cap), `auto`, or `on`, which leaves the
amount open. The table in docs/how-to/budgets.md has a line for each.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from gateway.errors import BadRequestError

MAX_BUDGET = 2**31 - 1
EFFORT_NAMES = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
BUDGET_FIELDS: tuple[str, ...] = (
    "custom_params",
    "enable_thinking",
    "extra_body",
    "google",
    "output_config",
    "reasoning",
    "reasoning_budget",
    "reasoning_effort",
    "thinking",
    "thinking_budget",
    "thinking_budget_tokens",
    "thinking_config",
    "thinking_token_budget",
)
"""The body's fields that this module reads. None is passed on: the gateway caps as each engine can."""

TEMPLATE_SWITCHES = ("enable_thinking", "thinking")
"""Variables of chat templates that turn the thinking on and off."""
_TEMPLATE_FIELDS = frozenset({*TEMPLATE_SWITCHES, "reasoning_effort", "thinking_budget"})
_EARLIER_THINKING = frozenset({"clear_thinking", "preserve_thinking"})
"""Variables that say what becomes of the thinking in earlier messages."""
_REASONING = frozenset({"max_tokens", "effort", "enabled", "exclude", "summary"})
_THINKING = frozenset({"type", "budget_tokens", "display"})
_LOOKS_LIKE_A_BUDGET = re.compile(r"think|reason|budget|effort", re.IGNORECASE)


@dataclass(frozen=True)
class Said:
    """What one field says."""

    field: str
    value: int | str
    """Tokens, an effort's name, `auto`, or `on`."""
    level: Literal["field", "effort"] = "field"
    """`field` takes precedence over `effort`: a number, or a switch, over a name."""


def said(body: Mapping[str, Any]) -> list[Said]:
    """What the fields of a body say.

    Raises:
        BadRequestError: a value is malformed, or an object has a field that is not known; names the field.
    """
    return [one for read in _READERS for one in read(body)]


def hides_thinking(body: Mapping[str, Any]) -> bool:
    """Whether a field asks for an answer without its thinking.

    Raises:
        BadRequestError: what holds such a field is not an object, or has a field that is not known; names the field.
    """
    reasoning = _object(body, "reasoning", _REASONING) or {}
    thinking = _object(body, "thinking", _THINKING) or {}
    return (
        reasoning.get("exclude") is True
        or thinking.get("display") == "omitted"
        or any(config.get("include_thoughts") is False for _, config in _gemini_configs(body))
    )


def unknown_template_fields(body: Mapping[str, Any]) -> Iterator[str]:
    """The variables for the chat template that look like a budget and are not known: it would ignore them silently."""
    for name in _template(body):
        if _LOOKS_LIKE_A_BUDGET.search(name) and name not in _TEMPLATE_FIELDS | _EARLIER_THINKING:
            yield f"chat_template_kwargs.{name}"


def _vllm(body: Mapping[str, Any]) -> Iterator[Said]:
    yield from _tokens(body, "thinking_token_budget", unlimited="max")


def _openrouter(body: Mapping[str, Any]) -> Iterator[Said]:
    reasoning = _object(body, "reasoning", _REASONING)
    if reasoning is None:
        return
    yield from _tokens(reasoning, "max_tokens", "reasoning.")
    yield from _effort(reasoning, "effort", "reasoning.", level="field")
    yield from _switch(reasoning, "enabled", "reasoning.")
    _boolean(reasoning, "exclude", "reasoning.")
    _one_of(reasoning, "summary", "reasoning.", ("auto", "concise", "detailed"))


def _anthropic(body: Mapping[str, Any]) -> Iterator[Said]:
    thinking = _object(body, "thinking", _THINKING)
    if thinking is not None:
        yield from _thinking(thinking)
    config = _object(body, "output_config", {"effort"})
    if config is not None:
        yield from _effort(config, "effort", "output_config.")


def _thinking(thinking: Mapping[str, Any]) -> Iterator[Said]:
    kind, tokens = thinking.get("type"), thinking.get("budget_tokens")
    if kind not in ("enabled", "disabled", "adaptive", "auto"):
        raise BadRequestError(f"thinking.type must be enabled, adaptive or disabled, got {kind!r}", "thinking.type")
    _one_of(thinking, "display", "thinking.", ("summarized", "omitted"))
    if kind == "disabled" and tokens is not None:
        raise BadRequestError(
            "thinking.type disabled and thinking.budget_tokens contradict each other: leave out one of them",
            "thinking",
        )
    if tokens is not None:
        yield from _tokens(thinking, "budget_tokens", "thinking.")
    else:
        meaning: dict[str, int | str] = {"enabled": "on", "disabled": 0, "adaptive": "auto", "auto": "auto"}
        yield Said("thinking.type", meaning[kind])


def _gemini(body: Mapping[str, Any]) -> Iterator[Said]:
    for path, config in _gemini_configs(body):
        yield from _tokens(config, "thinking_budget", f"{path}.", unlimited="auto")
        yield from _effort(config, "thinking_level", f"{path}.", level="field")
        _boolean(config, "include_thoughts", f"{path}.")


def _gemini_configs(body: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The configuration where Gemini's clients put it: as it is, or as OpenAI's SDK passes it on."""
    extra = _object(body, "extra_body", {"google"})
    holders = [("", body, "google"), ("extra_body.", extra or {}, "google")]
    found = [("", body)]
    for prefix, holder, field in holders:
        google = _object(holder, field, {"thinking_config"}, prefix)
        found += [] if google is None else [(f"{prefix}google.", google)]
    for prefix, holder in found:
        fields = {"thinking_budget", "thinking_level", "include_thoughts"}
        config = _object(holder, "thinking_config", fields, prefix)
        if config is not None:
            yield f"{prefix}thinking_config", config


def _qwen(body: Mapping[str, Any]) -> Iterator[Said]:
    yield from _tokens(body, "thinking_budget")
    yield from _switch(body, "enable_thinking")


def _sglang(body: Mapping[str, Any]) -> Iterator[Said]:
    parameters = _object(body, "custom_params", {"thinking_budget"})
    if parameters is not None:
        yield from _tokens(parameters, "thinking_budget", "custom_params.")


def _llama_cpp(body: Mapping[str, Any]) -> Iterator[Said]:
    yield from _tokens(body, "thinking_budget_tokens", unlimited="max")
    yield from _tokens(body, "reasoning_budget", unlimited="max")


def _chat_template(body: Mapping[str, Any]) -> Iterator[Said]:
    variables = _template(body)
    for name in TEMPLATE_SWITCHES:
        yield from _switch(variables, name, "chat_template_kwargs.")
    yield from _tokens(variables, "thinking_budget", "chat_template_kwargs.", unlimited="max")
    yield from _effort(variables, "reasoning_effort", "chat_template_kwargs.")


def _openai(body: Mapping[str, Any]) -> Iterator[Said]:
    yield from _effort(body, "reasoning_effort")


_READERS = (_vllm, _openrouter, _anthropic, _gemini, _qwen, _sglang, _llama_cpp, _chat_template, _openai)


def validate_tokens(value: object, param: str, *, original_text: str | None = None) -> int:
    """The value if it is a valid cap. The error quotes `original_text` instead of the value, if given.

    Raises:
        BadRequestError: it is not a whole number from 0 to `MAX_BUDGET`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_BUDGET:
        got = value if original_text is None else original_text
        raise BadRequestError(
            f"{param} must be a whole number of reasoning tokens from 0 to {MAX_BUDGET}, got {got!r}", param
        )
    return value


def _tokens(holder: Mapping[str, Any], field: str, prefix: str = "", *, unlimited: str | None = None) -> Iterator[Said]:
    """What a number of tokens says. -1 is `unlimited` where the dialect has it."""
    value = holder.get(field)
    if value is None:
        return
    if unlimited is not None and value == -1 and type(value) is int:
        yield Said(f"{prefix}{field}", unlimited)
    else:
        yield Said(f"{prefix}{field}", validate_tokens(value, f"{prefix}{field}"))


def _effort(
    holder: Mapping[str, Any], field: str, prefix: str = "", *, level: Literal["field", "effort"] = "effort"
) -> Iterator[Said]:
    value = holder.get(field)
    if value is None:
        return
    if not isinstance(value, str) or value not in (*EFFORT_NAMES, "auto"):
        raise BadRequestError(
            f"{prefix}{field} must be one of {', '.join(EFFORT_NAMES)}, auto; got {value!r}", f"{prefix}{field}"
        )
    yield Said(f"{prefix}{field}", value, level)


def _switch(holder: Mapping[str, Any], field: str, prefix: str = "") -> Iterator[Said]:
    value = _boolean(holder, field, prefix)
    if value is not None:
        yield Said(f"{prefix}{field}", "on" if value else 0)


def _boolean(holder: Mapping[str, Any], field: str, prefix: str) -> bool | None:
    value = holder.get(field)
    if value is not None and not isinstance(value, bool):
        raise BadRequestError(f"{prefix}{field} must be true or false, got {value!r}", f"{prefix}{field}")
    return value


def _one_of(holder: Mapping[str, Any], field: str, prefix: str, names: Collection[str]) -> None:
    value = holder.get(field)
    if value is not None and value not in names:
        raise BadRequestError(f"{prefix}{field} must be one of {', '.join(names)}; got {value!r}", f"{prefix}{field}")


def _object(
    holder: Mapping[str, Any], field: str, allowed_fields: Collection[str], prefix: str = ""
) -> dict[str, Any] | None:
    value, path = holder.get(field), f"{prefix}{field}"
    if value is None:
        return None
    if not isinstance(value, dict):
        raise BadRequestError(
            f"{path} must be an object with {' or '.join(sorted(allowed_fields))}, got {value!r}", path
        )
    given = cast("dict[str, Any]", value)
    if unknown := sorted(given.keys() - set(allowed_fields)):
        raise BadRequestError(
            f"{path}.{unknown[0]} is unknown; {path} takes {', '.join(sorted(allowed_fields))}", f"{path}.{unknown[0]}"
        )
    if not any(each is not None for each in given.values()):
        raise BadRequestError(f"{path} must have {' or '.join(sorted(allowed_fields))}", path)
    return given


def _template(body: Mapping[str, Any]) -> dict[str, Any]:
    """The variables for the chat template. That they are an object is checked where the body is parsed."""
    variables = body.get("chat_template_kwargs")
    return cast("dict[str, Any]", variables) if isinstance(variables, dict) else {}
