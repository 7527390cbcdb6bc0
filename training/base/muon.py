"""Which optimizer trains the base? Muon for its matrices and AdamW for the rest, as one optimizer.

`torch.optim.Muon` orthogonalises in bfloat16, which takes seconds a step on a CPU without bfloat16 instructions
(docs/decisions/0002-muon.md). This one does the same five Newton-Schulz steps in bfloat16 only where that is fast, in
float32 elsewhere, and batches matrices of one shape. Keller Jordan et al., "Muon: An optimizer for hidden layers in
neural networks", 2024. The step is scaled to AdamW's root mean square, 0.2 sqrt(max(rows, columns)) (arXiv 2502.16982,
eq. 4).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from training.job.precision import autocast_bf16

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5


def orthogonalise(matrices: Tensor) -> Tensor:
    """The approximately nearest semi-orthogonal matrix of each, (N, rows, columns), with singular values near 1."""
    x = matrices.mT if matrices.size(-2) > matrices.size(-1) else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if matrices.size(-2) > matrices.size(-1) else x


class Muon(torch.optim.Optimizer):
    """Muon for the hidden matrices, AdamW for embeddings, norms and head, both with decoupled weight decay."""

    def __init__(self, named: Iterable[tuple[str, torch.nn.Parameter]], lr: float, weight_decay: float = 0.01) -> None:
        matrices, others = [], []
        for name, parameter in named:
            (matrices if parameter.ndim == 2 and "embed" not in name and "lm_head" not in name else others).append(
                parameter
            )
        groups: list[dict[str, Any]] = [{"params": matrices, "muon": True}, {"params": others, "muon": False}]
        super().__init__(
            groups, {"lr": lr, "weight_decay": weight_decay, "momentum": 0.95, "betas": (0.9, 0.95), "eps": 1e-8}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """One update; `closure` is not supported and must be None."""
        assert closure is None
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            for parameter in parameters:
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
            (self._muon if group["muon"] else self._adamw)(parameters, group)

    def _muon(self, parameters: list[torch.nn.Parameter], group: dict[str, Any]) -> None:
        by_shape: dict[torch.Size, list[tuple[torch.nn.Parameter, Tensor]]] = defaultdict(list)
        for parameter in parameters:
            gradient = parameter.grad
            assert gradient is not None
            momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
            momentum.lerp_(gradient, 1 - group["momentum"])
            by_shape[parameter.shape].append((parameter, gradient.lerp(momentum, group["momentum"])))
        precision = torch.bfloat16 if autocast_bf16() else torch.float32
        for shape, pairs in by_shape.items():
            updates = orthogonalise(torch.stack([update for _, update in pairs]).to(precision))
            scale = 0.2 * max(shape) ** 0.5
            for (parameter, _), update in zip(pairs, updates, strict=True):
                parameter.add_(update, alpha=-group["lr"] * scale)

    def _adamw(self, parameters: list[torch.nn.Parameter], group: dict[str, Any]) -> None:
        first_decay, second_decay = group["betas"]
        for parameter in parameters:
            gradient, state = parameter.grad, self.state[parameter]
            assert gradient is not None
            first = state.setdefault("first", torch.zeros_like(parameter))
            second = state.setdefault("second", torch.zeros_like(parameter))
            state["steps"] = steps = state.get("steps", 0) + 1
            first.lerp_(gradient, 1 - first_decay)
            second.mul_(second_decay).addcmul_(gradient, gradient, value=1 - second_decay)
            denominator = (second / (1 - second_decay**steps)).sqrt_().add_(group["eps"])
            parameter.addcdiv_(first, denominator, value=-group["lr"] / (1 - first_decay**steps))
