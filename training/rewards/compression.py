"""How much does each episode tell about the parameters? The compression penalty of L2T (arXiv 2505.10425, Thm 4.2).

The paper measures the information that an episode puts into the parameters through a low-rank proxy of them. It leaves
open which proxy to use and how the episode moves it. Ours:

- The proxy is the last block's MLP down-projection W in the coordinates of its top singular vectors: W ~ U M V^T, and
  M, rank x rank, are the proxy parameters. After the last attention everything is local to a position. So the gradient
  of log pi(z_t) with respect to M is (U^T e_t)(V^T a_t)^T, with a_t the layer's input and e_t the gradient at its
  output. One forward pass, and one short backward through the final norm and the head, give it for every token.
- It moves by one natural-gradient step, d_k = (F + damping)^-1 g_k: the mean shift of a Laplace posterior after episode
  k. F is the empirical Fisher of the batch's tokens. So d_k . g_k is Rao's score statistic: it has no scale and does
  not depend on how the proxy is parameterised.
- The penalty is its square, (d_k . g_k)^2, divided by the average rollout's sum over its episodes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

from training.rollouts.batch import Rollouts

RANK = 16
DAMPING = 1e-5
"""Relative to the Fisher's mean eigenvalue."""
_TOKENS_AT_ONCE = 4096
"""Positions whose logits are in memory at a time."""


@dataclass(frozen=True)
class TokenGradients:
    """The gradient of log pi(z_t) with respect to the proxy as its two factors, U^T e_t and V^T a_t, each (B, T, r)."""

    output_BTr: Tensor
    input_BTr: Tensor


class Proxy:
    """The proxy of a model's current weights. Inside `with`, it records the inputs it needs of each forward pass.

    Args:
        model: a decoder whose last block ends in `mlp.down_proj`, with or without LoRA.
        rank: top singular directions on either side, r.

    Raises:
        ValueError: the layer has fewer singular directions than `rank`.
    """

    @torch.no_grad()
    def __init__(self, model: PreTrainedModel, rank: int = RANK) -> None:
        self._model: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._layer = self._model.get_decoder().layers[-1].mlp.down_proj
        weight = effective_weight(self._layer)
        if not 1 <= rank <= min(weight.shape):
            raise ValueError(f"rank must be between 1 and {min(weight.shape)}, got {rank}")
        left, _, right = torch.linalg.svd(_wide(weight), full_matrices=False)
        self._left_dr, self._right_mr = left[:, :rank], right[:rank].T
        self._captured: dict[str, Tensor] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        norm = self._model.get_decoder().norm
        for name, module in (("inputs", self._layer), ("hidden", norm)):
            self._hooks.append(
                module.register_forward_pre_hook(
                    lambda _module, args, name=name: self._captured.update({name: args[0]})
                )
            )
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._captured.clear()

    @torch.no_grad()
    def gradients(self, rollouts: Rollouts) -> TokenGradients:
        """Gradients of every completion token, zero on padding, from the last forward pass.

        The rows of that pass began with `rollouts`, whose prompts are padded on the left.
        """
        with torch.autocast(self._left_dr.device.type, enabled=False):
            return self._gradients(rollouts)

    def _gradients(self, rollouts: Rollouts) -> TokenGradients:
        first = rollouts.prompt_ids_BP.size(1) - 1
        predicting = slice(first, first + rollouts.completion_ids_BT.size(1))
        mask_BT = rollouts.completion_mask_BT.bool()
        hidden_Nd, inputs_Nm = (self._captured[name][:, predicting][mask_BT] for name in ("hidden", "inputs"))
        gradient_Nd = _output_gradients(self._model, hidden_Nd, rollouts.completion_ids_BT[mask_BT])
        result = self._left_dr.new_zeros(2, *mask_BT.shape, self._left_dr.size(1))
        result[0][mask_BT] = gradient_Nd @ self._left_dr
        result[1][mask_BT] = _wide(inputs_Nm) @ self._right_mr
        return TokenGradients(*result)


@torch.no_grad()
def token_gradients(model: PreTrainedModel, rollouts: Rollouts, *, rank: int = RANK) -> TokenGradients:
    """Proxy gradients of every completion token, with a forward pass of their own; prompts are padded on the left."""
    mask_BS = rollouts.mask_BS
    with Proxy(model, rank) as proxy:
        model(
            input_ids=rollouts.ids_BS,
            attention_mask=mask_BS,
            position_ids=(mask_BS.cumsum(1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=1,
        )
        return proxy.gradients(rollouts)


def _output_gradients(model: Any, hidden_Nd: Tensor, ids_N: Tensor) -> Tensor:
    """Gradient of log pi(z_t) with respect to the output of the last block, and so of its down-projection, (N, d)."""
    parts = []
    for hidden, ids in zip(hidden_Nd.split(_TOKENS_AT_ONCE), ids_N.split(_TOKENS_AT_ONCE), strict=True):
        with torch.enable_grad():
            leaf = hidden.detach().requires_grad_()
            logits = model.get_output_embeddings()(model.get_decoder().norm(leaf))
            logp = -torch.nn.functional.cross_entropy(_wide(logits), ids, reduction="sum")
            (gradient,) = torch.autograd.grad(logp, leaf)
        parts.append(_wide(gradient))
    return torch.cat(parts) if parts else _wide(hidden_Nd)


def _wide(values: Tensor) -> Tensor:
    """Float32, or float64 if the values are."""
    return values if values.dtype == torch.float64 else values.float()


def effective_weight(layer: Any) -> Tensor:
    """A linear layer's weight with its active LoRA adapters added."""
    if not hasattr(layer, "base_layer"):
        return layer.weight
    weight = layer.base_layer.weight.detach().clone()
    if not layer.merged and not layer.disable_adapters:
        for adapter in layer.active_adapters:
            weight += layer.get_delta_weight(adapter)
    return weight


def scores(
    output_BTr: Tensor,
    input_BTr: Tensor,
    index_BT: Tensor,
    episodes: int,
    *,
    damping: float = DAMPING,
    sum_over_processes: Callable[[Tensor], Tensor] = lambda local: local,
) -> Tensor:
    """Rao's score statistic d_k . g_k of every episode, at least 0, (B, K).

    Computed in float64: in float32 the solve would amplify rounding, which depends on how rows are batched.

    Args:
        output_BTr: first factor of the tokens' proxy gradients, U^T e_t.
        input_BTr: second factor, V^T a_t.
        index_BT: each token's episode from 0, -1 on padding.
        episodes: K.
        damping: relative to trace(F) / r^2.
        sum_over_processes: sums a tensor over all processes, so that each has the Fisher of the whole batch.
    """
    rows, _, rank = output_BTr.shape
    mask_BT = index_BT >= 0
    flat_N = (index_BT + torch.arange(rows, device=index_BT.device)[:, None] * episodes)[mask_BT]
    new = {"dtype": torch.float64, "device": index_BT.device}
    fisher_PP = torch.zeros(rank * rank, rank * rank, **new)
    episode_QP = torch.zeros(rows * episodes, rank * rank, **new)
    parts = zip(
        *(each.split(_TOKENS_AT_ONCE) for each in (output_BTr[mask_BT], input_BTr[mask_BT], flat_N)), strict=True
    )
    for output_nr, input_nr, flat_n in parts:
        token_nP = torch.einsum("ni,nj->nij", output_nr.double(), input_nr.double()).flatten(1)
        fisher_PP += token_nP.T @ token_nP
        episode_QP.index_add_(0, flat_n, token_nP)
    fisher_PP = sum_over_processes(fisher_PP) / sum_over_processes(torch.tensor(float(len(flat_N)), **new)).clamp(min=1)
    fisher_PP.diagonal().add_(damping * fisher_PP.diagonal().mean() + torch.finfo(fisher_PP.dtype).tiny)
    shift_QP = torch.linalg.solve(fisher_PP, episode_QP.T).T
    return (shift_QP * episode_QP).sum(1).clamp(min=0).view(rows, episodes).to(output_BTr.dtype)
