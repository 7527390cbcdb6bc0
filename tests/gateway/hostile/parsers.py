"""What do vLLM's own reasoning parsers make of a model's tokens? Run as a program, because importing vLLM is slow.

    python -m tests.gateway.hostile.parsers FAMILY_BASE PARSER...

It prints JSON: by parser, the deltas of a stream, the message of a response, and the reasoning tokens in both usages.
The chat template has opened the thinking, so the tokens begin inside it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

THINKING, ANSWER = "\n1+2=3\nso 3\n", "\n\nThe answer is 3."
THINKING_TOKENS, TOKENS = 11, 19


def parse(name: str, tokenizer: Any) -> dict[str, Any]:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest  # noqa: PLC0415
    from vllm.reasoning import ReasoningParserManager  # noqa: PLC0415

    kind: Any = ReasoningParserManager.get_reasoning_parser(name)
    ids = tokenizer.encode(THINKING + "</think>" + ANSWER, add_special_tokens=False)
    assert len(ids) == TOKENS
    streaming, text, deltas = kind(tokenizer), "", []
    for at, token in enumerate(ids):
        piece = tokenizer.decode([token])
        delta = streaming.extract_reasoning_streaming(text, text + piece, piece, ids[:at], ids[: at + 1], [token])
        text += piece
        if delta is not None:
            fields = {"reasoning": delta.reasoning, "content": delta.content}
            deltas.append({field: value for field, value in fields.items() if value})
    request = ChatCompletionRequest.model_validate({"messages": [{"role": "user", "content": "x"}]})
    whole = kind(tokenizer)
    reasoning, content = whole.extract_reasoning(text, request)
    return {
        "deltas": deltas,
        "message": {"reasoning": reasoning, "content": content},
        "streamed_tokens": streaming.count_reasoning_tokens(ids),
        "tokens": whole.count_reasoning_tokens(ids),
    }


def main() -> None:
    from transformers import AutoTokenizer  # noqa: PLC0415

    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    sys.stdout.write(json.dumps({name: parse(name, tokenizer) for name in sys.argv[2:]}))


if __name__ == "__main__":
    main()
