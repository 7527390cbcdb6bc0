"""Which events can be read without a JSON parser? Most events of a stream that may escalate look alike.

Parsing an event and writing it again costs many times what relaying it does, so one regular expression takes a whole
run of the events that vLLM sends for one choice: deltas with reasoning or content alone, and log probabilities as
compact JSON. The events of a run differ in nothing but their text and tokens. Any other event is for the JSON parser
(`gateway.answer.cascade`).
"""

from __future__ import annotations

import re
from typing import NamedTuple

_TEXT = rb'"(?!")[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"'
# Only escapes that every encoder writes alike, so that equal tokens are equal bytes.
_TOKEN = (
    rb'\{"token":"[^"\\]*+(?:\\[nrt"\\][^"\\]*+)*+"'
    rb',"logprob":-?\d++(?:\.\d++)?(?:[eE][-+]?\d++)?'
    rb',"bytes":(?:null|\[[\d,]*+\])(?:,"top_logprobs":(?:\[\]|null))?\}'
)
_TOKENS = rb'\{"content":\[(?:' + _TOKEN + rb",?)++\]\}"
_RUN = re.compile(
    rb'(?P<head>data: \{(?:"\w++":(?:"[^"\\\n]*+"|[-\d.]++|null),)*+"choices":\[\{"index":0,"delta":\{'
    rb'"(?P<field>reasoning|reasoning_content|content)":)'
    + _TEXT
    + rb'\},"logprobs":(?:null|(?P<tokens>'
    + _TOKENS
    + rb'))(?P<tail>,"finish_reason":null[,}][^\n]*+\n\n)'
    + rb"(?:(?P=head)"
    + _TEXT
    + rb'\},"logprobs":(?(tokens)'
    + _TOKENS
    + rb"|null)(?P=tail))*+"
)
# These are for events of a run only, which have nothing else that looks like it.
_LOGPROBS = re.compile(rb'\{"content":\[(?:\{"token":"[^"\\]*+(?:\\.[^"\\]*+)*+"[^}]*+\},?)++\]\}')
_LOGPROB = re.compile(rb'","logprob":([^,]++),')


class PlainRun(NamedTuple):
    """Plain events that follow each other."""

    end: int
    """Where they end."""
    is_reasoning: bool
    """Their deltas are reasoning; otherwise they are content."""
    has_tokens: bool
    """Each has tokens with log probabilities; otherwise none has."""


def plain_run(events: bytes, start: int = 0) -> PlainRun | None:
    """The run of plain events that begins at `start`; None if only a JSON parser can tell what the event there says."""
    if (run := _RUN.match(events, start)) is None:
        return None
    _, field, tokens, _ = run.groups()
    return PlainRun(run.end(), field != b"content", tokens is not None)


def logprobs_of(run: bytes) -> list[float]:
    """The log probability of each token of a run."""
    return list(map(float, _LOGPROB.findall(run)))


def without_logprobs(run: bytes) -> bytes:
    """The events of a run without log probabilities."""
    return _LOGPROBS.sub(b"null", run)
