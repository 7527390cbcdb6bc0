"""What is left of a response for a caller who does not want to see the thinking (`include_reasoning: false`)? Pure.

Engines put thinking into many fields: `reasoning`, `reasoning_content`, `reasoning_details`, `thinking_blocks`, parts
of the content, log probabilities, token ids. So the fields that stay are listed, not the ones that are removed. Log
probabilities and token ids go as a whole, as in vLLM: the thinking's tokens are among them.
"""

from __future__ import annotations

from typing import cast

from gateway.events import Json, integer_at, objects, string_at
from models.family import Reasoning

_RESPONSE = frozenset(
    {"id", "object", "created", "model", "choices", "usage", "system_fingerprint", "service_tier", "prompt_logprobs",
     "prompt_token_ids", "metrics"}
)  # fmt: skip
_CHOICE = frozenset({"index", "finish_reason", "stop_reason", "content_filter_results"})
_MESSAGE = frozenset({"role", "content", "refusal", "tool_calls", "function_call", "annotations", "audio", "name"})
_LONGEST_MARK = 128
_TEXT_PARTS = frozenset({"text", "output_text", "refusal"})


class HiddenThinking:
    """Removes the thinking from one stream, event by event.

    Where no reasoning comes apart, an engine without a parser may be sending it at the front of the content. The
    template may have opened it, so only its end tells it from an answer. Until then, such content is held back.
    """

    def __init__(self, marks: Reasoning, *, thinks: bool) -> None:
        """`thinks`: the checkpoint is free to think; otherwise content is an answer unless it opens its thinking."""
        self._marks, self._thinks = marks, thinks
        self._held: dict[int, _Held] = {}
        """By choice, content that may be thinking."""
        self._answering: set[int] = set()
        """Choices whose thinking is over."""

    def visible(self, event: Json) -> Json | None:
        """The event without its thinking; None if nothing is left that a caller needs."""
        kept = _kept(event, _RESPONSE)
        if not isinstance(event.get("choices"), list):
            return kept if "choices" not in event else None
        kept["choices"] = [self._choice(choice) for choice in objects(event["choices"])]
        worth = not kept["choices"] or isinstance(event.get("usage"), dict)
        for choice in kept["choices"]:
            worth = worth or any(choice["delta"].values()) or bool(choice.get("finish_reason"))
        worth = worth or any("role" in choice["delta"] for choice in kept["choices"])
        return kept if worth else None

    def _choice(self, choice: Json) -> Json:
        delta = _visible_message(choice.get("delta"))
        index = integer_at(choice, "index")
        if _came_apart(choice.get("delta")):
            self._answering.add(index)
        if index not in self._answering:
            shown = self._shown(index, string_at(delta, "content"), choice.get("finish_reason"))
            if shown or isinstance(delta.get("content"), str):
                delta["content"] = shown
        return {**_kept(choice, _CHOICE), "delta": delta, "logprobs": None}

    def _shown(self, index: int, content: str, finish_reason: object) -> str:
        held = self._held.setdefault(index, _Held())
        held.add(content)
        if not finish_reason and held.may_be_thinking(self._marks, thinks=self._thinks):
            return ""
        self._answering.add(index)
        del self._held[index]
        return _answer("".join(held.pieces), finish_reason, self._marks, thinks=self._thinks)


class _Held:
    """Content that is held back."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self._recent = ""
        self._opened = False

    def add(self, content: str) -> None:
        self.pieces.append(content)
        self._recent = self._recent[-_LONGEST_MARK:] + content

    def may_be_thinking(self, marks: Reasoning, *, thinks: bool) -> bool:
        """Whether it need not be an answer yet."""
        if marks.end in self._recent:
            return False
        if thinks or self._opened:
            return True
        front = "".join(self.pieces).lstrip()
        self._opened = front.startswith(marks.start)
        return self._opened or marks.start.startswith(front)


def visible_response(response: Json, marks: Reasoning, *, thinks: bool) -> Json:
    """A non-streaming response without its thinking."""
    visible = _kept(response, _RESPONSE)
    choices: list[Json] = []
    for choice in objects(response.get("choices")):
        message = _visible_message(choice.get("message"))
        if isinstance(content := message.get("content"), str) and not _came_apart(choice.get("message")):
            message["content"] = _answer(content, choice.get("finish_reason"), marks, thinks=thinks)
        kept = {**_kept(choice, _CHOICE), "message": message}
        choices.append({**kept, "logprobs": None} if "logprobs" in choice else kept)
    if isinstance(response.get("choices"), list):
        visible["choices"] = choices
    return visible


def _answer(content: str, finish_reason: object, marks: Reasoning, *, thinks: bool) -> str:
    opened = content.lstrip().startswith(marks.start)
    if not (thinks or opened):
        return content
    _, end, answer = content.partition(marks.end)
    if end:
        return answer
    return "" if opened or finish_reason == "length" else content


def _came_apart(message: object) -> bool:
    fields = cast("Json", message) if isinstance(message, dict) else {}
    return any(value for name, value in fields.items() if name.startswith("reasoning"))


def _visible_message(message: object) -> Json:
    if not isinstance(message, dict):
        return {}
    visible = _kept(cast("Json", message), _MESSAGE)
    if isinstance(content := visible.get("content"), list):
        parts = objects(cast("list[object]", content))
        visible["content"] = [part for part in parts if part.get("type") in _TEXT_PARTS]
    return visible


def _kept(fields: Json, names: frozenset[str]) -> Json:
    return {name: value for name, value in fields.items() if name in names}
