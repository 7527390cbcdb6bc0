"""How long did requests take, and what did they use? OpenTelemetry's GenAI metrics, recorded when a request has ended.

`gen_ai.server.*` is what callers saw of the gateway. `gen_ai.client.*` is what the gateway saw of engines: one
operation for each call, so an escalated request has two. Reasoning tokens are a counter of their own and are in the
output tokens, too; cached tokens likewise are in the input tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from opentelemetry.metrics import Histogram, Meter

from gateway.access.cost import Part
from gateway.ledger.entry import Entry
from gateway.observe.genai import ENGINE, GATEWAY, Asked, Attributes, known

SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKENS = tuple(4.0**power for power in range(14))
"""1, 4, 16 to 67,108,864. All four are the conventions' own boundaries."""
_USAGE = "gen_ai.client.inference.usage"


@dataclass
class Call:
    """One request to an engine."""

    model: str
    """The engine's name for the checkpoint."""
    checkpoint: str
    server: Attributes = field(default_factory=dict[str, str | bool | int | float | list[str]])
    """Where the engine is; empty if none answered."""
    seconds: float = 0.0
    """Until the response was over."""
    first_chunk_seconds: float | None = None
    """Until a stream's first bytes; None without a stream."""
    error: str | None = None


class Meters:
    """The instruments of one process."""

    def __init__(self, meter: Meter) -> None:
        def seconds(name: str, what: str, boundaries: Sequence[float] = SECONDS) -> Histogram:
            return meter.create_histogram(f"gen_ai.{name}", "s", what, explicit_bucket_boundaries_advisory=boundaries)

        def tokens(name: str, what: str) -> Histogram:
            return meter.create_histogram(
                f"gen_ai.client.{name}", "{token}", what, explicit_bucket_boundaries_advisory=TOKENS
            )

        self._duration = seconds("server.request.duration", "Duration of a request at the gateway")
        self._first_token = seconds("server.time_to_first_token", "Time to the first token of a stream", FIRST_TOKEN)
        self._per_token = seconds("server.time_per_output_token", "Time per token after the first one", PER_TOKEN)
        self._call = seconds("client.inference.duration", "Duration of a call to an engine")
        self._first_chunk = seconds("client.inference.time_to_first_chunk", "Time to an engine's first chunk")
        self._input, self._output = (
            tokens(f"inference.operation.{kind}_tokens", f"Tokens of one operation's {kind}")
            for kind in ("input", "output")
        )
        self._tokens = tokens("token.usage", "Number of input and output tokens used")
        self._usage = {
            name: meter.create_counter(f"{_USAGE}.{name}", "{token}", what)
            for name, what in (
                ("input_tokens", "Input tokens used, cached ones included"),
                ("output_tokens", "Output tokens used, reasoning included"),
                ("cache_read.input_tokens", "Input tokens that an engine had in its cache"),
                ("reasoning.output_tokens", "Output tokens used for reasoning"),
            )
        }

    def record(self, entry: Entry, asked: Asked, calls: Sequence[Call]) -> None:
        """Record a request that has ended, and its calls to engines."""
        common: Attributes = {
            "gen_ai.operation.name": asked.operation,
            "gen_ai.provider.name": GATEWAY,
            "gen_ai.request.model": asked.model,
            "gen_ai.response.model": entry.checkpoint,
        }
        self._duration.record(entry.total_seconds, common | known({"error.type": entry.error or None}))
        first, output = entry.first_token_seconds, entry.reasoning_tokens + entry.answer_tokens
        if entry.status == 200 and asked.stream and first is not None:
            self._first_token.record(first, common)
            if output > 1 and asked.choices == 1:
                self._per_token.record((entry.total_seconds - first) / (output - 1), common)
        for call in calls:
            self._record_call(call, asked)
        by_checkpoint = {call.checkpoint: call for call in calls if call.error is None or call.server}
        for part in entry.parts:
            if (call := by_checkpoint.get(part.checkpoint)) is not None:
                told = entry.cached_tokens is not None and not part.repeats
                self._record_tokens(part, _of_call(call, asked), asked, cached=told)

    def _record_call(self, call: Call, asked: Asked) -> None:
        attributes = _of_call(call, asked)
        self._call.record(call.seconds, attributes | known({"error.type": call.error}))
        if call.first_chunk_seconds is not None:
            self._first_chunk.record(call.first_chunk_seconds, attributes)

    def _record_tokens(self, part: Part, attributes: Attributes, asked: Asked, *, cached: bool) -> None:
        spent = part.spent
        output = spent.reasoning + spent.answer
        self._input.record(spent.prompt, attributes)
        self._output.record(output, attributes)
        self._tokens.record(spent.prompt, attributes | {"gen_ai.token.type": "input"})
        self._tokens.record(output, attributes | {"gen_ai.token.type": "output"})
        read = attributes | {"gen_ai.token.modality": "text" if asked.is_text else "unknown"}
        written = attributes | {"gen_ai.token.modality": "text"}
        self._usage["input_tokens"].add(spent.prompt, read)
        self._usage["output_tokens"].add(output, written)
        self._usage["reasoning.output_tokens"].add(spent.reasoning, written)
        if cached:
            self._usage["cache_read.input_tokens"].add(spent.cached, read)


def _of_call(call: Call, asked: Asked) -> Attributes:
    return {
        "gen_ai.operation.name": asked.operation,
        "gen_ai.provider.name": ENGINE,
        "gen_ai.request.model": call.model,
        "gen_ai.response.model": call.checkpoint,
        **call.server,
    }
