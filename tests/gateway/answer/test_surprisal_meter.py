"""How surprising was the thinking? The meter in `gateway.answer.cascade`, by itself."""

from __future__ import annotations

from typing import Any

from gateway.answer.cascade import SurprisalMeter


def tokens(*pairs: tuple[str, float | None]) -> list[dict[str, Any]]:
    return [{"token": token, "logprob": logprob} for token, logprob in pairs]


def test_surprisal_covers_the_thinking_and_its_end_token() -> None:
    meter = SurprisalMeter("</think>")
    meter.add(tokens(("a", -0.5), ("b", -1.0)), has_answer=False)
    assert not meter.ended
    meter.add(tokens(("c", -0.25), ("</think>", -0.125), ("x", -5.0)), has_answer=True)
    meter.add(tokens(("y", -5.0)), has_answer=True)
    assert meter.ended
    assert (meter.surprisal, meter.reasoning_tokens, meter.tokens) == (1.875, 3, 6)


def test_without_an_end_token_thinking_ends_where_the_answer_starts() -> None:
    meter = SurprisalMeter("</think>")
    meter.add(tokens(("a", -0.5)), has_answer=False)
    meter.add(tokens(("x", -5.0)), has_answer=True)
    assert (meter.surprisal, meter.reasoning_tokens, meter.ended) == (0.5, 1, True)


def test_without_log_probabilities_there_is_no_surprisal() -> None:
    meter = SurprisalMeter("</think>")
    meter.add([], has_answer=False)
    meter.add(tokens(("a", None)), has_answer=False)
    meter.add([{"token": "</think>"}], has_answer=False)
    assert (meter.surprisal, meter.ended) == (0.0, True)
