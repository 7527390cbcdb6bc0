"""What do LiteLLM's chats and messages have in common? Each one's program says only its provider."""

import json
from collections.abc import Callable
from typing import Any

import litellm
from shown import QUESTION, Total, add, caught, show

NUMBERS = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
ADD = {"type": "function", "function": {"name": "add", "parameters": NUMBERS}}


def try_all(provider: str, base: str, options: Callable[[str], dict[str, Any]], **seen: Any) -> None:
    """Do everything with a provider's models, and show it with what was seen already; `options` ask for an effort."""

    def chat(model: str = "abacus", **more):
        asked = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 400, "num_retries": 0, **more}
        return litellm.completion(f"{provider}/{model}", api_base=base, api_key="none", **asked)

    whole = chat(**options("low"))
    stream = litellm.stream_chunk_builder(list(chat(stream=True, stream_options={"include_usage": True})))
    calling = chat(tools=[ADD]).choices[0].message
    (call,) = calling.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": add(**json.loads(call.function.arguments))}
    called = chat(tools=[ADD], messages=[{"role": "user", "content": QUESTION}, calling, result])

    show(
        whole=whole.choices[0].message.content,
        thought=getattr(whole.choices[0].message, "reasoning_content", None),
        usage=tokens(whole.usage),
        budget=whole._hidden_params["additional_headers"].get("llm_provider-x-laconic-budget"),
        stream=stream.choices[0].message.content,
        stream_usage=tokens(stream.usage),
        tool=called.choices[0].message.content,
        object=Total.model_validate_json(chat(response_format=Total).choices[0].message.content).model_dump(),
        unknown=caught(lambda: chat("nobody")),
        refused=caught(lambda: chat(**options("lots"))),
        **seen,
    )


def tokens(usage) -> list[int]:
    return [usage.prompt_tokens, usage.completion_tokens, usage.completion_tokens_details.reasoning_tokens]
