"""Can an event be read without a JSON parser? Most events of a stream that may escalate look alike.

Parsing an event and writing it again costs seven times as much as relaying it, so a regular expression reads the events
that vLLM sends for one choice: a delta with reasoning or content alone, and log probabilities as compact JSON. Any
other event is for the JSON parser (`gateway.answer.cascade`).
"""

from __future__ import annotations

import re
from typing import NamedTuple

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
# Only escapes that every encoder writes alike, so that equal tokens are equal bytes.
_TOKEN = (
    rb'\{"token":"([^"\\]*+(?:\\[nrt"\\][^"\\]*+)*+)"'
    rb',"logprob":(-?\d++(?:\.\d++)?(?:[eE][-+]?\d++)?)'
    rb',"bytes":(?:null|\[[\d,]*+\])(?:,"top_logprobs":(?:\[\]|null))?\}'
)
_TOKENS = re.compile(_TOKEN)
_START = b'"choices":[{"index":0,"delta":{"'
_CHOICE = re.compile(
    rb'"choices":\[\{"index":0,"delta":\{"(reasoning|reasoning_content|content)":(?!"")'
    + _STRING
    + rb'\},"logprobs":(null|\{"content":\[((?:'
    + _TOKEN.replace(b'"token":"(', b'"token":"(?:').replace(b"(-", b"(?:-")
    + rb',?)++)\]\}),"finish_reason":null(?=[,}])'
)


class PlainEvent(NamedTuple):
    """What a plain event says."""

    is_reasoning: bool
    """Its delta is reasoning; otherwise it is content."""
    tokens: list[tuple[bytes, float]]
    """Each token, as JSON without its quotes, and its log probability."""
    event: bytes
    """The event without log probabilities."""


def read_plain(event: bytes) -> PlainEvent | None:
    """Return what an event of a stream says, or None if only a JSON parser can tell."""
    at = event.find(_START)
    if at < 0 or (match := _CHOICE.match(event, at)) is None:
        return None
    start, end = match.span(2)
    tokens = [(token, float(logprob)) for token, logprob in _TOKENS.findall(match[3] or b"")]
    return PlainEvent(match[1] != b"content", tokens, event[:start] + b"null" + event[end:])
