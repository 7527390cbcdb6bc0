"""How is a completion sampled? The settings that every sampler takes, ours and a served engine; no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SamplingParams:
    """How to sample a set of prompts."""

    max_tokens: int
    """Longest completion, the eos token included. A longer one is truncated."""
    temperature: float
    """0 is greedy decoding."""
    samples: int = 1
    """Completions per prompt."""
    seed: int | None = None
    """None: torch's global generator continues from its current state; a served engine picks its own seed."""
