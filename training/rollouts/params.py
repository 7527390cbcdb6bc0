"""How is a completion sampled? The settings that every sampler takes, ours and a served engine; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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


def cached_values(config: Any) -> int:
    """How many numbers the KV cache of one token has, in all layers of the model with this (text) config."""
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * size
