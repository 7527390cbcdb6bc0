"""Does a conversation keep its checkpoint on a real stack, and does the engine find its turns in its cache?"""

from __future__ import annotations

import httpx

from tests.end_to_end.conftest import Stack

STORY = "Mia has 12 apples. She gives away 5. How many apples are left? " * 4
"""Long enough to fill a block of the engine's cache, which has 128 tokens on a CPU."""


def test_a_conversation_keeps_its_checkpoint_and_finds_its_turns_in_the_cache(stack: Stack) -> None:
    messages = [{"role": "user", "content": STORY}, {"role": "assistant", "content": "The answer is 7. " * 8}]
    seen: list[tuple[str, int]] = []
    for number in range(3):
        messages.append({"role": "user", "content": f"What is {number + 2} * 86?"})
        response = httpx.post(
            f"{stack.url}/v1/chat/completions",
            json={"model": "abacus", "messages": messages, "max_tokens": 100},
            headers={"x-conversation-id": "one"},
            timeout=600,
        )
        assert response.status_code == 200, response.text
        usage = response.json()["usage"]
        move = response.headers.get("x-laconic-conversation", "none")
        seen.append((move, usage["prompt_tokens_details"]["cached_tokens"]))
        messages.append({"role": "assistant", "content": "172"})
    assert seen[0][0] == "begun"
    assert {move for move, _ in seen[1:]} == {"kept"}
    assert [cached >= 128 for _, cached in seen[1:]] == [True, True]
