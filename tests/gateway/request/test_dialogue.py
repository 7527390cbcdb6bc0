"""Which earlier turns a turn is read with."""

from __future__ import annotations

import json
from typing import Any

from gateway.request import question
from gateway.request.dialogue import MAX_TURNS, SUBSTANTIAL_CHARACTERS, Dialogue, dialogue_of

LONG = "Rewrite the parser so that it reads both formats. " * 3
assert len(LONG) >= SUBSTANTIAL_CHARACTERS


def dialogue(*messages: tuple[str, str | None]) -> Dialogue:
    return dialogue_of(messages)


def test_a_single_turn_is_read_alone() -> None:
    assert dialogue(("system", LONG), ("user", "1 + 1?")) == Dialogue(turns=1, tool_results=0, context=())


def test_a_short_follow_up_is_read_with_what_it_is_about() -> None:
    told = dialogue(
        ("user", "Hello"), ("assistant", "?"), ("user", LONG), ("assistant", "Shall I?"), ("user", "Quick"),
        ("assistant", "Sure?"), ("user", "Yes, do that."),
    )  # fmt: skip
    assert told.turns == 4
    assert told.context == (LONG, "Quick")


def test_not_all_of_a_long_chat_is_read() -> None:
    told = dialogue(*[("user", str(number)) for number in range(20)])
    assert told.context == tuple(str(number) for number in range(19 - MAX_TURNS, 19))


def test_tool_results_are_counted_and_images_left_out() -> None:
    told = dialogue(("user", None), ("assistant", "call"), ("tool", "x"), ("tool", "y"), ("user", "And now?"))
    assert told == Dialogue(turns=2, tool_results=2, context=())


def test_a_request_has_its_dialogue() -> None:
    def parsed(*messages: dict[str, Any]) -> question.Question:
        return question.parse(json.dumps({"model": "abacus", "messages": messages}).encode())

    user, reply = {"role": "user", "content": LONG}, {"role": "assistant", "content": "Shall I?"}
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}
    assert parsed(user).dialogue == Dialogue()
    follow_up = parsed(user, reply, {"role": "user", "content": "Yes."})
    assert (follow_up.prompt, follow_up.dialogue.context) == ("Yes.", (LONG,))
    assert parsed(image, reply, {"role": "user", "content": "Yes."}).dialogue.context == ()
