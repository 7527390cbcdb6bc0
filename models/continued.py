"""How does one request continue the message that another one began? The last message is the beginning of the answer.

So budget forcing (s1, arXiv 2501.19393, section 3.1) ends a thinking: what follows the mark that ends it is the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LIMITS = ("max_tokens", "max_completion_tokens")


def continued(body: Mapping[str, Any], beginning: str, tokens: int) -> dict[str, Any]:
    """Return the body that continues a message; vLLM, SGLang and llama.cpp take it so.

    Args:
        body: the request that began the message. It is not changed.
        beginning: the message so far, marks included.
        tokens: what was generated of it. They no longer count towards the body's limits.
    """
    limits = {name: max(1, body[name] - tokens) for name in LIMITS if body.get(name)}
    if body.get("min_tokens"):
        limits["min_tokens"] = max(0, body["min_tokens"] - tokens)
    return {
        **body,
        **limits,
        "messages": [*body["messages"], {"role": "assistant", "content": beginning}],
        "add_generation_prompt": False,
        "continue_final_message": True,
    }
