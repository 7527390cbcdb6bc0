"""What does a checkpoint add to a request? Overrides, and the engine's own way to cap thinking.

A checkpoint of kind `served` is a model that an engine serves already, with something put into the request: thinking
switched off, an effort, a system prompt, a sampling preset, a cap. So several checkpoints may share one model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

Cap = Literal[
    "thinking_token_budget",
    "custom_params.thinking_budget",
    "thinking_budget_tokens",
    "thinking.budget_tokens",
    "forced",
    "none",
]
"""How a checkpoint's thinking is capped. The first four are fields of the request, as vLLM, SGLang, llama.cpp and
Anthropic's API name them. `forced`: the gateway ends the thinking itself. `none`: it cannot be capped, because nothing
marks its end."""
CAPS: tuple[Cap, ...] = get_args(Cap)

_OWN_FIELDS = frozenset({"model", "messages", "stream", "stream_options", "n"})
"""Fields that the gateway sets or that belong to the caller."""


class Overrides(BaseModel):
    """What a checkpoint puts into every request."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    body: dict[str, JsonValue] = Field(default_factory=dict)
    """Fields that replace the caller's; objects are merged key by key."""
    defaults: dict[str, JsonValue] = Field(default_factory=dict)
    """Fields for callers who do not set them, such as a temperature."""
    system: str | None = None
    """A system prompt, put before the caller's own."""
    suffix: str | None = None
    """Text behind the last user message, such as Qwen3's `/no_think`. Small models obey it better than a system
    prompt."""

    @field_validator("body", "defaults")
    @classmethod
    def _not_ours(cls, fields: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if taken := sorted(_OWN_FIELDS & fields.keys()):
            raise ValueError(f"{taken[0]} cannot be overridden")
        return fields


def with_overrides(body: Mapping[str, Any], overrides: Overrides) -> dict[str, Any]:
    """Return a request's body with a checkpoint's overrides; `body` is not changed."""
    result: dict[str, Any] = {**overrides.defaults, **body}
    for name, value in overrides.body.items():
        result[name] = _merged(result.get(name), value)
    if overrides.system is not None:
        result["messages"] = with_system(result.get("messages", []), overrides.system)
    if overrides.suffix is not None:
        result["messages"] = with_suffix(result.get("messages", []), overrides.suffix)
    return result


def with_system(messages: list[Any], system: str) -> list[Any]:
    """Return the messages with a system prompt in front, joined with the caller's own: many templates take only one."""
    first = cast("dict[str, Any]", messages[0]) if messages and isinstance(messages[0], dict) else {}
    if first.get("role") not in ("system", "developer"):
        return [{"role": "system", "content": system}, *messages]
    content = first.get("content")
    if isinstance(content, list):
        joined: object = [{"type": "text", "text": f"{system}\n\n"}, *cast("list[object]", content)]
    else:
        joined = f"{system}\n\n{content}" if content else system
    return [{**first, "content": joined}, *messages[1:]]


def with_suffix(messages: list[Any], suffix: str) -> list[Any]:
    """Return the messages with text behind the last one of the user, after a line end; the same if there is none."""
    for at in range(len(messages) - 1, -1, -1):
        message = cast("dict[str, Any]", messages[at]) if isinstance(messages[at], dict) else {}
        if message.get("role") != "user":
            continue
        content = message.get("content")
        if isinstance(content, list):
            joined: object = [*cast("list[object]", content), {"type": "text", "text": f"\n{suffix}"}]
        else:
            joined = f"{content}\n{suffix}" if content else suffix
        return [*messages[:at], {**message, "content": joined}, *messages[at + 1 :]]
    return messages


def with_cap(body: Mapping[str, Any], cap: Cap, tokens: int) -> dict[str, Any]:
    """Return a request's body with a cap of `tokens` on its thinking, if the engine takes one as a field."""
    if cap in ("forced", "none"):
        return dict(body)
    outer, _, inner = cap.partition(".")
    if not inner:
        return {**body, cap: tokens}
    value: dict[str, Any] = {"type": "enabled"} if outer == "thinking" else {}
    return {**body, outer: _merged(body.get(outer), {**value, inner: tokens})}


def _merged(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return {**cast("dict[str, Any]", old), **cast("dict[str, Any]", new)}
    return new
