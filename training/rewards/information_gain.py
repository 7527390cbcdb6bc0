"""How much did each episode of thinking help? Its information gain, in one forward pass.

J_k is the model's probability of the gold answer if thinking stops after k episodes. An episode's
information gain is J_k - J_{k-1}, which L2T calls the fitting gain (arXiv 2505.10425, Def. 4.1). The paper names no
estimator. Ours appends a *probe* to each prefix: the tokens that stop the thinking, then the gold answer,
teacher-forced.

Prefix by prefix that takes K + 1 forward passes. Here all probes of a rollout follow its prompt and thinking in one
sequence. A 4-D attention mask lets probe k attend to the prompt, to the thinking up to the end of episode k, and to
itself. Position ids place it directly after that episode. The cost is one pass over T + (K + 1) |probe| tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from training.rollouts.batch import Rollouts

AnswerProbability = Literal["joint", "per_token"]
MEMORY_BYTES = 1 << 30
"""Approximate limit for the masks, attention scores and logits of one forward pass."""


@dataclass(frozen=True)
class Probe:
    """Token ids appended to a prefix: `stop` ends the thinking and introduces `answer`. Neither is empty."""

    stop: tuple[int, ...]
    answer: tuple[int, ...]
    newline: int = 0
    """Tokens at the start of `stop` that end a line; left out after a prefix whose last token has ended it."""

    def __post_init__(self) -> None:
        if len(self.stop) <= self.newline or not self.answer:
            raise ValueError("a probe needs a stop and an answer of at least one token each")


def information_gains(success_BK1: Tensor) -> Tensor:
    """gain_k = J_k - J_{k-1} in [-1, 1], (B, K). They add up to J_K - J_0."""
    return success_BK1.diff(dim=1)


@torch.no_grad()
def answer_probabilities(
    model: PreTrainedModel,
    rollouts: Rollouts,
    ends_BK: Tensor,
    probes: Sequence[Probe],
    *,
    answer_probability: AnswerProbability = "joint",
    memory_bytes: int = MEMORY_BYTES,
    after_pass: Callable[[Tensor, Rollouts], None] | None = None,
    kv_caches: Sequence[Tensor] | None = None,
    closed_BK: Tensor | None = None,
) -> Tensor:
    """J_0 .. J_K of each rollout in [0, 1], float32, (B, K + 1).

    Args:
        model: a causal language model that takes a 4-D float mask and `position_ids`.
        rollouts: of each completion, the probes see at most the first `ends_BK[:, -1]` tokens.
        ends_BK: completion tokens up to the end of each episode; a row with fewer than K episodes repeats its last.
        probes: one per row.
        answer_probability: `joint` is the product over the answer's tokens; `per_token` is its geometric mean, for
            long answers.
        memory_bytes: rows are processed in chunks that need about this much at once; a single row may need more.
        after_pass: called after each chunk's forward pass with the chunk's row numbers and rollouts. The sequences of
            that pass begin with these rollouts, so other measurements can use what the model computed.
        kv_caches: per row, the KV cache of prompt and completion, (layers, 2, key heads, tokens, D), as
            `training.rollouts.sample.sample` returns it. Then only the probes are computed.
        closed_BK: True where the last token of episode k has ended its line (`Episodes.closed_BK`); default: nowhere.

    Raises:
        ValueError: both `after_pass` and `kv_caches` are given; with KV caches there is no pass over the rollouts.
    """
    if after_pass and kv_caches is not None:
        raise ValueError("after_pass needs a pass over the rollouts, which kv_caches replaces")
    ends_BK1 = torch.cat([torch.zeros_like(ends_BK[:, :1]), ends_BK], 1)
    closed_BK = torch.zeros_like(ends_BK, dtype=torch.bool) if closed_BK is None else closed_BK
    closed_BK1 = torch.cat([torch.zeros_like(closed_BK[:, :1]), closed_BK], 1)
    needed_B = (ends_BK1 < ends_BK1[:, -1:]).sum(1) + 1
    success_BK1 = torch.empty(ends_BK1.shape, dtype=torch.float32, device=ends_BK1.device)
    for rows in _chunks(model, rollouts, needed_B, probes, memory_bytes, only_probes=kv_caches is not None):
        chunk, needed = rollouts[rows], int(needed_B[rows].max())
        packed = PackedProbes.of(
            [probes[row] for row in rows.tolist()], chunk, ends_BK1[rows, :needed], closed_BK1[rows, :needed]
        )
        logits = (
            _forward_all(model, chunk, packed)
            if kv_caches is None
            else _forward_probes(model, packed, [kv_caches[row] for row in rows.tolist()])
        )
        chunk_BK1 = packed.log_success(logits, answer_probability).exp()
        success_BK1[rows] = torch.cat([chunk_BK1, chunk_BK1[:, -1:].expand(-1, ends_BK1.size(1) - needed)], 1)
        if after_pass:
            after_pass(rows, chunk)
    return success_BK1


def _chunks(
    model: PreTrainedModel,
    rollouts: Rollouts,
    needed_B: Tensor,
    probes: Sequence[Probe],
    memory_bytes: int,
    *,
    only_probes: bool,
) -> Iterator[Tensor]:
    """Row numbers in chunks that fit into memory, with rollouts of similar length together."""
    config = model.config.get_text_config()
    stop_width, answer_width = (
        max(len(part) for part in parts) for parts in zip(*((p.stop, p.answer) for p in probes), strict=True)
    )
    probe_tokens_B = needed_B * (stop_width + answer_width)
    width_B = rollouts.mask_BS.sum(1) + probe_tokens_B
    order = width_B.argsort(descending=True)
    while len(order):
        width, needed = int(width_B[order[0]]), int(needed_B[order].max())
        queries = int(probe_tokens_B.max()) if only_probes else width
        scores = 4 * width * queries * (1 + config.num_attention_heads)
        logits = 4 * 2 * needed * answer_width * config.vocab_size
        rows = max(1, memory_bytes // (scores + logits))
        yield order[:rows]
        order = order[rows:]


@dataclass(frozen=True)
class PackedProbes:
    """The probes of a chunk, aligned so that every stop ends, and every answer starts, in the same column."""

    ids_BL: Tensor
    mask_BKL: Tensor
    """True where probe k has a token; L = stop_width + answer_width, padding on both sides."""
    stop_width: int
    """Columns of the stop; the answer has the rest."""
    ends_BK1: Tensor
    """Completion tokens before each of a row's probes."""
    prompt_length_B1: Tensor

    @classmethod
    def of(
        cls, probes: Sequence[Probe], rollouts: Rollouts, ends_BK1: Tensor, closed_BK1: Tensor | None = None
    ) -> PackedProbes:
        """Pack one probe per row, repeated after each of its episodes; without its line break where `closed_BK1`."""
        device = ends_BK1.device
        stop_width = max(len(probe.stop) for probe in probes)
        answer_width = max(len(probe.answer) for probe in probes)

        def aligned(left: Sequence[int], right: Sequence[int]) -> list[int]:
            return [0] * (stop_width - len(left)) + [*left, *right] + [0] * (answer_width - len(right))

        ids_BL = torch.tensor([aligned(p.stop, p.answer) for p in probes], device=device)
        masks = [aligned([1] * len(p.stop), [1] * len(p.answer)) for p in probes]
        open_masks = [aligned([0] * p.newline + [1] * (len(p.stop) - p.newline), [1] * len(p.answer)) for p in probes]
        mask_BKL = torch.tensor(masks, device=device).bool()[:, None].expand(-1, ends_BK1.size(1), -1)
        if closed_BK1 is not None:
            mask_BKL = torch.where(
                closed_BK1[:, :, None], torch.tensor(open_masks, device=device).bool()[:, None], mask_BKL
            )
        return cls(
            ids_BL=ids_BL,
            mask_BKL=mask_BKL,
            stop_width=stop_width,
            ends_BK1=ends_BK1,
            prompt_length_B1=rollouts.prompt_mask_BP.sum(1, keepdim=True),
        )

    @property
    def ids_BQ(self) -> Tensor:
        """All probes of each row, one after another; Q = (K + 1) L."""
        return self.ids_BL.repeat(1, self.ends_BK1.size(1))

    @property
    def positions_BQ(self) -> Tensor:
        """Each probe's positions continue from the end of its episode."""
        start_BK1 = self.prompt_length_B1 + self.ends_BK1
        return (start_BK1[:, :, None] + self.mask_BKL.cumsum(2) - 1).clamp(min=0).flatten(1)

    @property
    def predicting_N(self) -> Tensor:
        """Columns of Q whose logits predict the answers' tokens; N = (K + 1) * answer width."""
        device, (prefixes, length) = self.ids_BL.device, (self.ends_BK1.size(1), self.ids_BL.size(1))
        first_K1 = torch.arange(prefixes, device=device)[:, None] * length + self.stop_width - 1
        return (first_K1 + torch.arange(length - self.stop_width, device=device)).flatten()

    def log_success(self, logits_BNV: Tensor, answer_probability: AnswerProbability) -> Tensor:
        """log J_0 .. log J_K from the logits at `predicting_N`, (B, K + 1)."""
        rows, prefixes = self.ends_BK1.shape
        answer_BA, mask_B1A = self.ids_BL[:, self.stop_width :], self.mask_BKL[:, :1, self.stop_width :]
        logp_BKA = (
            torch.log_softmax(logits_BNV.float(), -1)
            .view(rows, prefixes, answer_BA.size(1), -1)
            .gather(3, answer_BA[:, None, :, None].expand(-1, prefixes, -1, -1))
            .squeeze(3)
        )
        total_BK1 = (logp_BKA * mask_B1A).sum(2)
        return total_BK1 if answer_probability == "joint" else total_BK1 / mask_B1A.sum(2)


def _forward_all(model: PreTrainedModel, rollouts: Rollouts, packed: PackedProbes) -> Tensor:
    """Logits at the probes' predicting positions, by a pass over prompts, completions and probes, (B, N, V)."""
    prompt_mask_BP = rollouts.prompt_mask_BP.bool()
    prompt, completion = prompt_mask_BP.size(1), rollouts.completion_ids_BT.size(1)
    positions_BS = [
        (prompt_mask_BP.cumsum(1) - 1).clamp(min=0),
        packed.prompt_length_B1 + torch.arange(completion, device=prompt_mask_BP.device),
        packed.positions_BQ,
    ]
    return model(
        input_ids=torch.cat([rollouts.ids_BS, packed.ids_BQ], 1),
        attention_mask=_additive(_attention(prompt_mask_BP, completion, packed.ends_BK1, packed.mask_BKL), model.dtype),
        position_ids=torch.cat(positions_BS, 1),
        use_cache=False,
        logits_to_keep=prompt + completion + packed.predicting_N,
    ).logits


def _forward_probes(model: PreTrainedModel, packed: PackedProbes, kv_caches: Sequence[Tensor]) -> Tensor:
    """The same logits from the KV caches of prompts and completions, by a pass over the probes alone, (B, N, V)."""
    tokens = max(kv.size(3) for kv in kv_caches)
    # A cache has no padding before the prompt: prompt and completion are one stretch, and probe k sees its beginning.
    no_prompt_B0 = torch.ones(len(kv_caches), 0, dtype=torch.bool, device=packed.ids_BL.device)
    prefix_BK1 = packed.prompt_length_B1 + packed.ends_BK1
    return model(
        input_ids=packed.ids_BQ,
        attention_mask=_additive(_probe_attention(no_prompt_B0, tokens, prefix_BK1, packed.mask_BKL), model.dtype),
        position_ids=packed.positions_BQ,
        past_key_values=_batched_cache(model, kv_caches),
        use_cache=True,
        logits_to_keep=packed.predicting_N,
    ).logits


def _additive(attention_BQS: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to add to attention scores: 0 where a query attends to a key, the smallest number elsewhere."""
    mask_BQS = torch.zeros(attention_BQS.shape, dtype=dtype, device=attention_BQS.device)
    return mask_BQS.masked_fill_(~attention_BQS, torch.finfo(dtype).min)[:, None]


def _batched_cache(model: PreTrainedModel, kv_caches: Sequence[Tensor]) -> DynamicCache:
    """The KV caches of several rollouts as one cache, padded on the right."""
    layers, two, heads, _, size = kv_caches[0].shape
    tokens = max(kv.size(3) for kv in kv_caches)
    batch = kv_caches[0].new_zeros(layers, two, len(kv_caches), heads, tokens, size)
    for row, kv in enumerate(kv_caches):
        batch[:, :, row, :, : kv.size(3)] = kv
    cache = DynamicCache(config=model.config)
    for layer, (keys, values) in enumerate(batch):
        cache.update(keys, values, layer)
    return cache


def _attention(prompt_mask_BP: Tensor, completion: int, ends_BK1: Tensor, probe_mask_BKL: Tensor) -> Tensor:
    """Which query attends to which key, (B, S, S). Every token attends to itself, so no row of padding is empty."""
    device = prompt_mask_BP.device
    probes_BQS = _probe_attention(prompt_mask_BP, completion, ends_BK1, probe_mask_BKL)
    rows, queries, total = probes_BQS.shape
    context = total - queries
    real_BC = torch.cat([prompt_mask_BP, torch.ones(rows, completion, dtype=torch.bool, device=device)], 1)
    causal_CC = torch.ones(context, context, dtype=torch.bool, device=device).tril()
    itself_CC = torch.eye(context, dtype=torch.bool, device=device)
    context_BCS = torch.nn.functional.pad(causal_CC & real_BC[:, None, :] | itself_CC, (0, queries))
    return torch.cat([context_BCS, probes_BQS], 1)


def _probe_attention(prompt_mask_BP: Tensor, completion: int, ends_BK1: Tensor, probe_mask_BKL: Tensor) -> Tensor:
    """The probes' rows of that mask, (B, Q, S): each attends to the prompt, its prefix of the thinking, and itself."""
    device = prompt_mask_BP.device
    prefixes, length = ends_BK1.size(1), probe_mask_BKL.size(2)
    prefix_BKT = torch.arange(completion, device=device) < ends_BK1[:, :, None]
    context_BKC = torch.cat([prompt_mask_BP[:, None, :].expand(-1, prefixes, -1), prefix_BKT], 2)
    probes_BQQ = torch.eye(prefixes * length, dtype=torch.bool, device=device).repeat(len(probe_mask_BKL), 1, 1)
    causal_LL = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    for k in range(prefixes):
        own = slice(k * length, (k + 1) * length)
        probes_BQQ[:, own, own] |= causal_LL & probe_mask_BKL[:, k, None, :]
    return torch.cat([context_BKC.repeat_interleave(length, 1), probes_BQQ], 2)
