"""How many tokens did a reply think? As the engine reports it, or else from its text."""

from __future__ import annotations

from dataclasses import dataclass, replace

from models.family import Reasoning
from training.adopt.engine import Reply

MARKS = Reasoning()
"""Those of every model that is adopted."""


@dataclass(frozen=True)
class Split:
    """A reply's answer, and the tokens it took."""

    answer: str
    reasoning_tokens: int
    answer_tokens: int


def split(reply: Reply, marks: Reasoning | None) -> Split:
    """Return the answer of a reply and its tokens.

    Without marks, nothing tells thinking from answering, so every token counts as reasoning. Where the engine reports
    no reasoning tokens, they are the reasoning's share of the text.
    """
    if marks is None:
        return Split(reply.content, reply.completion_tokens, 0)
    thinking, answer = reply.reasoning, reply.content
    if not thinking:
        thinking, answer = _inline(reply.content, marks)
    tokens = reply.reasoning_tokens
    if tokens is None or (tokens == 0 and thinking):
        whole = len(thinking) + len(answer)
        tokens = round(reply.completion_tokens * len(thinking) / whole) if whole else 0
    return Split(answer, tokens, reply.completion_tokens - tokens)


def all_thinking(reply: Reply) -> Reply:
    """A reply whose thinking the template had opened: cut off before the mark that ends it, it is thinking alone."""
    marked = begins(reply.content, MARKS) or MARKS.end in reply.content
    if reply.finish_reason != "length" or reply.reasoning or marked:
        return reply
    return replace(reply, reasoning=reply.content, content="")


def begins(content: str, marks: Reasoning) -> bool:
    """Whether content begins with the mark that opens the thinking."""
    return content.lstrip().startswith(marks.start)


def _inline(content: str, marks: Reasoning) -> tuple[str, str]:
    """Thinking at the front of the content, as an engine without a reasoning parser sends it."""
    front, mark, rest = content.partition(marks.end)
    if mark:
        return front.replace(marks.start, "", 1), rest
    return (content.replace(marks.start, "", 1), "") if begins(content, marks) else ("", content)
