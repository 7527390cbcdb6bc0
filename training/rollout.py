"""How are many completions sampled quickly from a small model on a CPU?

A batch shrinks as its sequences finish: Hugging Face's `generate` computes every row until the longest is done,
which for reasoning of very different lengths is more than half the work. See docs/decisions/0003-rollouts.md.
A GPU runs the same code; an engine's rollouts would be faster there and are not wired up yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

_SHRINK_AT = 0.8
"""Finished rows are dropped once no more than this share of the batch is still running."""


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    temperature: float,
    eos: int,
    batch: int = 256,
    on_batch: Callable[[int], None] = lambda _: None,
) -> list[list[int]]:
    """One completion per prompt, its eos included; one that came to `max_tokens` without eos was cut off.

    `temperature` 0 is greedy. Randomness is torch's global generator. `on_batch` hears how many prompts are done.
    """
    was_training = model.training
    model.eval()
    completions: list[list[int]] = []
    for start in range(0, len(prompts), batch):
        completions += _sample_batch(model, prompts[start : start + batch], max_tokens, temperature, eos)
        on_batch(len(completions))
    model.train(was_training)
    return completions


def _sample_batch(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], max_tokens: int, temperature: float, eos: int
) -> list[list[int]]:
    width = max(map(len, prompts))
    device = model.device
    ids = torch.tensor([[p[0]] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    position = mask.sum(1, keepdim=True)
    cache = DynamicCache(config=model.config)
    logits = _forward(model, ids, mask, (mask.cumsum(1) - 1).clamp(min=0), cache)
    completions: list[list[int]] = [[] for _ in prompts]
    rows = torch.arange(len(prompts), device=device)
    running = torch.ones(len(prompts), dtype=torch.bool, device=device)
    for _ in range(max_tokens):
        token = _draw(logits, temperature)
        for row, value, is_running in zip(rows.tolist(), token.tolist(), running.tolist(), strict=True):
            if is_running:
                completions[row].append(value)
        running &= token != eos
        if not running.any():
            break
        if running.float().mean() <= _SHRINK_AT:
            keep = running.nonzero().squeeze(1)
            cache.batch_select_indices(keep)
            rows, token, mask, position, running = rows[keep], token[keep], mask[keep], position[keep], running[keep]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        logits = _forward(model, token[:, None], mask, position, cache)
        position = position + 1
    return completions


def _forward(model: PreTrainedModel, ids: Tensor, mask: Tensor, position: Tensor, cache: DynamicCache) -> Tensor:
    """Logits of the last position, (B, V)."""
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=position,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1].float()


def _draw(logits: Tensor, temperature: float) -> Tensor:
    """One token per row, (B,)."""
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial(torch.softmax(logits / temperature, -1), 1).squeeze(1)
