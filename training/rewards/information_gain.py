"""How much did each episode of thinking help? The fitting gain of L2T (arXiv 2505.10425, Def. 4.1) in one forward pass.

J_k is the model's probability of the gold answer once thinking is stopped after k episodes; an episode's gain is
J_k - J_{k-1}. The paper gives no estimator. Ours appends a *probe* to each prefix: the tokens that stop the thinking,
then the gold answer, teacher-forced.

Episode by episode that is K + 1 forward passes over growing prefixes. Here all probes of a rollout stand one after
another behind its prompt and thinking, in one sequence. A 4-D attention mask lets probe k see the prompt, the thinking
up to episode k, and itself; position ids put it where it would have stood. So the cost is one pass over
T + (K + 1) |probe| tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from training.rollouts.batch import Rollouts

Prediction = Literal["joint", "per_token"]
MEMORY_BYTES = 1 << 30
"""What masks, attention scores and logits of one forward pass may take together, about."""


@dataclass(frozen=True)
class Probe:
    """What is appended to a prefix: `stop` ends the thinking and leads up to `answer`. Token ids, neither empty."""

    stop: tuple[int, ...]
    answer: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.stop or not self.answer:
            raise ValueError("a probe needs a stop and an answer of at least one token each")


def gains(success_BK1: Tensor) -> Tensor:
    """gain_k = J_k - J_{k-1} in [-1, 1], (B, K). They add up to J_K - J_0."""
    return success_BK1.diff(dim=1)


@torch.no_grad()
def success(
    model: PreTrainedModel,
    rollouts: Rollouts,
    ends_BK: Tensor,
    probes: Sequence[Probe],
    *,
    reading: Prediction = "joint",
    memory_bytes: int = MEMORY_BYTES,
    after_pass: Callable[[Tensor, Rollouts], None] | None = None,
    seen: Sequence[Tensor] | None = None,
) -> Tensor:
    """J_0 .. J_K of each rollout in [0, 1], float32, (B, K + 1).

    Args:
        model: a causal language model that takes a 4-D float mask and `position_ids`.
        rollouts: the probes read of each completion at most the first `ends_BK[:, -1]` tokens.
        ends_BK: completion tokens up to the end of each episode; a row with fewer than K episodes repeats its last.
        probes: one per row.
        reading: `joint` is the product over the answer's tokens, `per_token` its geometric mean, for long answers.
        memory_bytes: rows are taken in chunks that need about this much at once; a single row may need more.
        after_pass: told, after each chunk's forward pass, which rows it had, and those rollouts; the pass began with
            them, so what the model holds then serves other measurements too.
        seen: per row, what attention keeps of prompt and completion, (layers, 2, key heads, tokens, D), as
            `training.rollouts.sample.sample` gives it. Then only the probes are computed.

    Raises:
        ValueError: both `after_pass` and `seen`, with which no pass has the rollouts.
    """
    if after_pass and seen is not None:
        raise ValueError("after_pass needs a pass over the rollouts, which seen spares")
    ends_BK1 = torch.cat([torch.zeros_like(ends_BK[:, :1]), ends_BK], 1)
    needed_B = (ends_BK1 < ends_BK1[:, -1:]).sum(1) + 1
    found = torch.empty(ends_BK1.shape, dtype=torch.float32, device=ends_BK1.device)
    for rows in _chunks(model, rollouts, needed_B, probes, memory_bytes, only_probes=seen is not None):
        chunk, needed = rollouts[rows], int(needed_B[rows].max())
        own = [probes[row] for row in rows.tolist()]
        before = None if seen is None else [seen[row] for row in rows.tolist()]
        some = _log_success(model, chunk, ends_BK1[rows, :needed], own, reading=reading, before=before).exp()
        found[rows] = torch.cat([some, some[:, -1:].expand(-1, ends_BK1.size(1) - needed)], 1)
        if after_pass:
            after_pass(rows, chunk)
    return found


def _chunks(
    model: PreTrainedModel,
    rollouts: Rollouts,
    needed_B: Tensor,
    probes: Sequence[Probe],
    memory_bytes: int,
    *,
    only_probes: bool,
) -> Iterator[Tensor]:
    """Row numbers, rollouts of like length together, as many as fit."""
    config = model.config.get_text_config()
    stop, answer = (
        max(len(part) for part in parts) for parts in zip(*((p.stop, p.answer) for p in probes), strict=True)
    )
    asking_B = needed_B * (stop + answer)
    width_B = rollouts.mask_BS.sum(1) + asking_B
    order = width_B.argsort(descending=True)
    while len(order):
        width, needed = int(width_B[order[0]]), int(needed_B[order].max())
        scores = 4 * width * (int(asking_B.max()) if only_probes else width) * (1 + config.num_attention_heads)
        logits = 4 * 2 * needed * answer * config.vocab_size
        rows = max(1, memory_bytes // (scores + logits))
        yield order[:rows]
        order = order[rows:]


def _log_success(
    model: PreTrainedModel,
    rollouts: Rollouts,
    ends_BK1: Tensor,
    probes: Sequence[Probe],
    *,
    reading: Prediction,
    before: Sequence[Tensor] | None,
) -> Tensor:
    completion_ids_BT = rollouts.completion_ids_BT
    prompt_mask_BP = rollouts.prompt_mask_BP.bool()
    device = prompt_mask_BP.device
    rows, prefixes = ends_BK1.shape
    prompt, thought = prompt_mask_BP.size(1), completion_ids_BT.size(1)
    stop = max(len(probe.stop) for probe in probes)
    answer = max(len(probe.answer) for probe in probes)

    def aligned(left: Sequence[int], right: Sequence[int]) -> list[int]:
        """Stops end and answers start in the same column of every row."""
        return [0] * (stop - len(left)) + [*left, *right] + [0] * (answer - len(right))

    probe_BL = torch.tensor([aligned(p.stop, p.answer) for p in probes], device=device)
    said_BL = torch.tensor([aligned([1] * len(p.stop), [1] * len(p.answer)) for p in probes], device=device).bool()
    length = stop + answer

    prompt_length_B1 = prompt_mask_BP.sum(1, keepdim=True)
    ids_BS = probe_BL.repeat(1, prefixes)
    positions_BS = (
        ((prompt_length_B1 + ends_BK1)[:, :, None] + (said_BL.cumsum(1) - 1)[:, None, :]).clamp(min=0).flatten(1)
    )
    first = stop - 1  # the position that predicts the answer's first token
    if before is None:
        cache = None
        seen_BQS = _seen(prompt_mask_BP, thought, ends_BK1, said_BL)
        ids_BS = torch.cat([rollouts.prompt_ids_BP, completion_ids_BT, ids_BS], 1)
        positions_BS = torch.cat(
            [
                (prompt_mask_BP.cumsum(1) - 1).clamp(min=0),
                prompt_length_B1 + torch.arange(thought, device=device),
                positions_BS,
            ],
            1,
        )
        first += prompt + thought
    else:
        cache = _cache_of(model, before)
        kept = torch.ones(rows, max(part.size(3) for part in before), dtype=torch.bool, device=device)
        # Without padding before them, prompt and thinking are one stretch, of which probe k sees a beginning.
        seen_BQS = _seen_by_probes(kept[:, :0], kept.size(1), prompt_length_B1 + ends_BK1, said_BL)
    dtype = model.dtype
    mask_BQS = torch.zeros(seen_BQS.shape, dtype=dtype, device=device).masked_fill_(~seen_BQS, torch.finfo(dtype).min)
    predicting = (
        first + torch.arange(prefixes, device=device)[:, None] * length + torch.arange(answer, device=device)
    ).flatten()
    logits = model(
        input_ids=ids_BS,
        attention_mask=mask_BQS[:, None],
        position_ids=positions_BS,
        past_key_values=cache,
        use_cache=cache is not None,
        logits_to_keep=predicting,
    ).logits
    logp_BKA = (
        torch.log_softmax(logits.float(), -1)
        .view(rows, prefixes, answer, -1)
        .gather(3, probe_BL[:, None, stop:, None].expand(-1, prefixes, -1, -1))
        .squeeze(3)
    )
    said_B1A = said_BL[:, None, stop:]
    total_BK1 = (logp_BKA * said_B1A).sum(2)
    return total_BK1 if reading == "joint" else total_BK1 / said_B1A.sum(2)


def _cache_of(model: PreTrainedModel, before: Sequence[Tensor]) -> DynamicCache:
    """What was kept of some rollouts in one cache, padded on the right."""
    layers, two, heads, _, size = before[0].shape
    tokens = max(part.size(3) for part in before)
    kept = before[0].new_zeros(layers, two, len(before), heads, tokens, size)
    for row, part in enumerate(before):
        kept[:, :, row, :, : part.size(3)] = part
    cache = DynamicCache(config=model.config)
    for layer, (keys, values) in enumerate(kept):
        cache.update(keys, values, layer)
    return cache


def _seen(prompt_mask_BP: Tensor, thought: int, ends_BK1: Tensor, said_BL: Tensor) -> Tensor:
    """Who attends to whom, (B, S, S): query, key. Every token sees itself, so that no row of padding is empty."""
    device = prompt_mask_BP.device
    probes_BQS = _seen_by_probes(prompt_mask_BP, thought, ends_BK1, said_BL)
    rows, asking, total = probes_BQS.shape
    context = total - asking
    real_BC = torch.cat([prompt_mask_BP, torch.ones(rows, thought, dtype=torch.bool, device=device)], 1)
    causal = torch.ones(context, context, dtype=torch.bool, device=device).tril()
    itself = torch.eye(context, dtype=torch.bool, device=device)
    seen_BCS = torch.nn.functional.pad(causal & real_BC[:, None, :] | itself, (0, asking))
    return torch.cat([seen_BCS, probes_BQS], 1)


def _seen_by_probes(prompt_mask_BP: Tensor, thought: int, ends_BK1: Tensor, said_BL: Tensor) -> Tensor:
    """The probes' rows of it, (B, Q, S): each sees the prompt, its own prefix of the thinking, and itself."""
    device = prompt_mask_BP.device
    prefixes, length = ends_BK1.size(1), said_BL.size(1)
    within_BKT = torch.arange(thought, device=device) < ends_BK1[:, :, None]
    before_BKC = torch.cat([prompt_mask_BP[:, None, :].expand(-1, prefixes, -1), within_BKT], 2)
    own_BQQ = torch.eye(prefixes * length, dtype=torch.bool, device=device).repeat(len(said_BL), 1, 1)
    own_BLL = torch.ones(length, length, dtype=torch.bool, device=device).tril() & said_BL[:, None, :]
    for start in range(0, prefixes * length, length):
        own_BQQ[:, start : start + length, start : start + length] |= own_BLL
    return torch.cat([before_BKC.repeat_interleave(length, 1), own_BQQ], 2)
