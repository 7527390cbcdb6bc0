"""How are many completions sampled quickly from a model in this process, on a CPU or a GPU?

Finished sequences leave the batch. Hugging Face's `generate` computes every row until the longest is done; with
reasoning of very different lengths that is more than half the work (docs/decisions/0003-rollouts.md). Evaluation
and training sample here. With `family.engine: vllm` training does not, and without a GPU evaluation does not, either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from training.rollouts.params import SamplingParams, cached_values
from training.tasks.question import Question

_SHRINK_AT = 0.95
"""Finished rows leave the batch once at most this share of it is still running."""


def encoded(tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question]) -> list[list[int]]:
    """Token ids of each question in the chat template, up to where the completion begins."""
    return tokenizer.apply_chat_template(
        [[{"role": "user", "content": q.prompt}] for q in questions], add_generation_prompt=True, return_dict=False
    )


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    *,
    eos: int,
    batch_size: int | None = None,
    on_batch: Callable[[int], None] = lambda _: None,
    kv_caches: list[Tensor] | None = None,
    surprisals: list[list[float]] | None = None,
) -> list[list[int]]:
    """`params.samples` completions of each prompt, grouped by prompt; each includes its eos.

    A completion of `params.max_tokens` tokens without an eos was truncated.

    Args:
        model: the causal language model to sample from.
        prompts: token ids.
        params: its seed, if it has one, sets torch's global generator.
        eos: token id that ends a completion; it counts as one of its tokens.
        batch_size: maximum number of completions at a time; default: 256, or fewer if a GPU has no room for their KV
            caches.
        on_batch: receives the number of completions so far.
        kv_caches: receives the KV cache of each prompt and its completion, in order: (layers, 2, key heads, tokens, D).
            It may lack the eos. Only for a model that `caches_everything`.
        surprisals: receives -log P in nats of every token of each completion, in order, at temperature 1 whatever
            temperature it was drawn at.
    """
    if params.seed is not None:
        torch.manual_seed(params.seed)
    rows = [prompt for prompt in prompts for _ in range(params.samples)]
    completions: list[list[int]] = []
    batch_size = batch_size or _rows_that_fit(model, max(map(len, prompts), default=0) + params.max_tokens)
    with _sampling(model):
        for start in range(0, len(rows), batch_size):
            completions += _sample_batch(
                model, rows[start : start + batch_size], params, eos, kv_caches=kv_caches, surprisals=surprisals
            )
            on_batch(len(completions))
    return completions


def _rows_that_fit(model: PreTrainedModel, width: int, most: int = 256) -> int:
    """Rows whose KV caches fill half of a GPU's free memory. Half is left free, because growing a cache copies it."""
    if model.device.type != "cuda":
        return most
    row = width * cached_values(model.config.get_text_config()) * model.dtype.itemsize
    return max(1, min(most, torch.cuda.mem_get_info()[0] // 2 // row))


@contextmanager
def _sampling(model: PreTrainedModel) -> Iterator[None]:
    was_training, config = model.training, model.config
    attention = config._attn_implementation  # noqa: SLF001
    model.eval()
    if attention == "sdpa":
        config._attn_implementation = _GROUPED  # noqa: SLF001 - set_attn_implementation looks through all modules
    try:
        yield
    finally:
        config._attn_implementation = attention  # noqa: SLF001
        model.train(was_training)


def _grouped_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **how: Any
) -> tuple[Tensor, None]:
    """One new token's attention where several query heads share a key head, without a copy of the KV cache for each.

    The query heads of a key head become positions: (B, heads, 1, D) is viewed as (B, key heads, heads per key head, D).
    """
    if query.size(2) > 1 or query.size(1) == key.size(1):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **how)
    rows, heads, _, size = query.shape
    output = torch.nn.functional.scaled_dot_product_attention(
        query.view(rows, key.size(1), -1, size), key, value, attn_mask=attention_mask, scale=how["scaling"]
    )
    return output.reshape(rows, 1, heads, size), None


_GROUPED = "sdpa_grouped_decode"
AttentionInterface.register(_GROUPED, _grouped_attention)
AttentionMaskInterface.register(_GROUPED, sdpa_mask)


class _RoomyLayer(DynamicLayer):
    """Keys and values with spare room. Hugging Face's layer copies all of them for every new token."""

    _ROOM = 64
    _buffer: Tensor | None = None
    """Keys and values, (2, B, heads, length + spare room, D); `keys` and `values` are views of it."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        length = self.get_seq_length()
        needed = length + key_states.size(2)
        if self._buffer is None or self._buffer.size(3) < needed:
            rows, heads, _, size = key_states.shape
            buffer = key_states.new_empty(2, rows, heads, needed + self._ROOM, size)
            if self._buffer is not None:
                buffer[:, :, :, :length] = self._buffer[:, :, :, :length]
            self._buffer = buffer
        self._buffer[0, :, :, length:needed] = key_states
        self._buffer[1, :, :, length:needed] = value_states
        self.keys, self.values = self._buffer[:, :, :, :needed]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        assert self._buffer is not None
        length = self.get_seq_length()
        self._buffer = self._buffer[:, indices]
        self.keys, self.values = self._buffer[:, :, :, :length]


def caches_everything(model: PreTrainedModel) -> bool:
    """Whether every layer's KV cache holds the whole sequence: no sliding window, no recurrent state."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)


def _roomy_cache(model: PreTrainedModel) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    cache.layers = [_RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _sample_batch(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    eos: int,
    *,
    kv_caches: list[Tensor] | None,
    surprisals: list[list[float]] | None,
) -> list[list[int]]:
    width = max(map(len, prompts))
    device = model.device
    ids = torch.tensor([[p[0]] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    position = mask.sum(1, keepdim=True)
    cache = _roomy_cache(model)
    logits = _forward(model, ids, mask, (mask.cumsum(1) - 1).clamp(min=0), cache)
    completions: list[list[int]] = [[] for _ in prompts]
    nats: list[list[float]] = [[] for _ in prompts]
    rows = torch.arange(len(prompts), device=device)
    running = torch.ones(len(prompts), dtype=torch.bool, device=device)
    cached: dict[int, Tensor] = {}

    def save_kv_caches(finished_rows: Tensor) -> None:
        if kv_caches is None:
            return
        kv = torch.stack(
            [torch.stack([layer.keys[finished_rows], layer.values[finished_rows]]) for layer in cache.layers]
        )
        for at, row in enumerate(rows[finished_rows].tolist()):
            start = width - len(prompts[row])
            cached[row] = kv[:, :, at, :, start : width + len(completions[row])].clone()

    for _ in range(params.max_tokens):
        token = _draw(logits, params.temperature)
        _append(completions, rows, token, running)
        if surprisals is not None:
            _append(nats, rows, logits.logsumexp(-1) - logits.gather(1, token[:, None]).squeeze(1), running)
        running &= token != eos
        if not running.any():
            break
        if running.float().mean() <= _SHRINK_AT:
            running_rows = running.nonzero().squeeze(1)
            save_kv_caches((~running).nonzero().squeeze(1))
            cache.batch_select_indices(running_rows)
            rows, token, mask, position = (each[running_rows] for each in (rows, token, mask, position))
            running = running[running_rows]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        logits = _forward(model, token[:, None], mask, position, cache)
        position = position + 1
    save_kv_caches(torch.arange(len(rows), device=device))
    if kv_caches is not None:
        kv_caches += [cached[row] for row in range(len(prompts))]
    if surprisals is not None:
        surprisals += nats
    return completions


def _append(to: list[list[Any]], rows: Tensor, values: Tensor, running: Tensor) -> None:
    """Append each running row's value to that row's list."""
    for row, value, is_running in zip(rows.tolist(), values.tolist(), running.tolist(), strict=True):
        if is_running:
            to[row].append(value)


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
