"""What can the model behind a checkpoint do besides text? Learned from how engines answered those who asked for it.

An engine says what it serves and not what that can do, so each ability is unknown until a request has shown it. What
one process has learned is forgotten when it ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from gateway.errors import ApiError
from gateway.events import Json, object_at, objects, string_at

TOOLS, IMAGES, STRUCTURED = "tools", "images", "response_format"
ABILITIES = (TOOLS, IMAGES, STRUCTURED)

_REFUSALS = {
    # vLLM, llama.cpp, Ollama and SGLang in this order, as far as each has a message of its own
    TOOLS: re.compile(r"--tool-call-parser|requires --jinja|(?:does|do) not support tools|tools? .{0,40}not supported"),
    IMAGES: re.compile(
        r"not a multimodal model|At most 0 image|(?:image|vision|multi-?modal).{0,60}(?:not|only) support"
        r"|(?:does|do) not support (?:image|vision|multi-?modal)",
        re.IGNORECASE,
    ),
    STRUCTURED: re.compile(
        r"response_format.{0,60}(?:not support|unsupported|unavailable)|not support.{0,30}response_format"
    ),
}
_ADVICE = {
    TOOLS: "Start vLLM with --enable-auto-tool-choice and --tool-call-parser (`laconic serve` passes both on with"
    " --engine-args), or leave the tools out.",
    IMAGES: "Its model reads text alone: leave the images out, or ask another.",
    STRUCTURED: "Its engine writes no structured output: leave response_format out, or ask another.",
}


class Abilities:
    """What is known of each checkpoint."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], bool] = {}

    def learn(self, checkpoint: str, ability: str, *, can: bool) -> None:
        """Note what an answer has shown. The newest one counts."""
        self._known[checkpoint, ability] = can

    def of(self, checkpoint: str) -> dict[str, bool | None]:
        """Each ability of a checkpoint; None if no request has shown it yet."""
        return {ability: self._known.get((checkpoint, ability)) for ability in ABILITIES}

    def learn_from_refusal(self, checkpoint: str, body: Json, refusal: ApiError) -> None:
        """Note what an engine refused, and let the error name the field and say what to do."""
        for ability, field in wanted(body).items():
            if _REFUSALS[ability].search(refusal.message):
                self.learn(checkpoint, ability, can=False)
                refusal.param = field
                refusal.message = f"{field}: {checkpoint} cannot take this. {_ADVICE[ability]} ({refusal.message})"
                return

    def learn_from_answer(self, checkpoint: str, body: Json, answer: Json) -> str | None:
        """Note what a whole answer shows. Returns the field that the engine ignored; None if it ignored none."""
        ignored: str | None = None
        for ability in wanted(body):
            if (can := _shown(ability, body, answer)) is not None:
                self.learn(checkpoint, ability, can=can)
                if not can:
                    ignored = "tool_choice" if ability == TOOLS else ability
        return ignored

    def learn_from_stream(self, checkpoint: str, body: Json, finish_reason: str) -> None:
        """Note what the end of a stream shows: whether it called a tool, and that images were taken."""
        wants = wanted(body)
        if TOOLS in wants and finish_reason == "tool_calls":
            self.learn(checkpoint, TOOLS, can=True)
        if IMAGES in wants:
            self.learn(checkpoint, IMAGES, can=True)

    def ignored(self, checkpoint: str, body: Json) -> str | None:
        """The field of a request that this checkpoint's engine ignored before; None if there is none."""
        known = self.of(checkpoint)
        if False not in known.values():
            return None
        wants = wanted(body)
        if STRUCTURED in wants and known[STRUCTURED] is False:
            return STRUCTURED
        return "tool_choice" if TOOLS in wants and known[TOOLS] is False and _must_call(body) else None


def wanted(body: Json) -> dict[str, str]:
    """The abilities that a chat request needs, each with the field that asks for it."""
    wants: dict[str, str] = {}
    if body.get("tools") or body.get("functions"):
        wants[TOOLS] = "tools" if body.get("tools") else "functions"
    if string_at(object_at(body, "response_format"), "type") in ("json_object", "json_schema"):
        wants[STRUCTURED] = "response_format"
    if (image := next(_images(body), None)) is not None:
        wants[IMAGES] = image
    return wants


def _images(body: Json) -> Iterator[str]:
    for at, message in enumerate(objects(body.get("messages"))):
        for part_at, part in enumerate(objects(message.get("content"))):
            if part.get("type") in ("image_url", "input_image", "image"):
                yield f"messages[{at}].content[{part_at}]"


def _must_call(body: Json) -> bool:
    return body.get("tool_choice") == "required" or object_at(body, "tool_choice").get("type") == "function"


def _shown(ability: str, body: Json, answer: Json) -> bool | None:
    """Whether an answer of status 200 shows that the model can; None if it does not show it."""
    choices = objects(answer.get("choices"))
    messages = [object_at(choice, "message") for choice in choices]
    if ability == TOOLS:
        if any(objects(message.get("tool_calls")) for message in messages):
            return True
        ended = all(choice.get("finish_reason") == "stop" for choice in choices)
        return False if _must_call(body) and ended else None
    if ability == IMAGES:
        return True
    complete = [
        string_at(message, "content")
        for choice, message in zip(choices, messages, strict=True)
        if choice.get("finish_reason") == "stop" and not message.get("tool_calls") and not message.get("refusal")
    ]
    return all(map(_is_json, complete)) if complete else None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
