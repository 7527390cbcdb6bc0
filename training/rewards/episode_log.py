"""What did the episodes of one step earn? Figures for the training log, and single episodes for the report's plots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MAX_LOGGED = 300
"""Most episodes logged per step."""
_EPISODES_IN_LOG = 6
"""The mean gain is logged for each of the first episodes."""


def figures(gain_BK: Tensor, cost_BK: Tensor, count_B: Tensor) -> dict[str, float]:
    """The mean gain by episode and by rollout, the largest cost, and the correlation of cost and gain.

    Args:
        gain_BK: information gain of each episode.
        cost_BK: normalised cost of each episode; without any cost, its figures are left out.
        count_B: episodes of each rollout.
    """
    exists_BK = _exists(gain_BK, count_B)
    result = {
        f"gain/episode_{k + 1}": gain_BK[exists_BK[:, k], k].mean().item()
        for k in range(min(_EPISODES_IN_LOG, gain_BK.size(1)))
        if exists_BK[:, k].any()
    }
    gain, cost = gain_BK[exists_BK].double(), cost_BK[exists_BK].double()
    result["gain/rollout"] = gain_BK.sum(1).mean().item()
    if cost.any():
        correlation = torch.corrcoef(torch.stack([gain, cost]))[0, 1].nan_to_num()
        result["compression/largest"] = cost.max().item()
        result["compression/correlation_with_gain"] = correlation.item()
    return result


def row(step: int, gain_BK: Tensor, cost_BK: Tensor, count_B: Tensor) -> dict[str, Any]:
    """Gain and cost of the step's first `MAX_LOGGED` episodes, and each one's number from 1 within its rollout."""
    rows, episodes = (index[:MAX_LOGGED] for index in _exists(gain_BK, count_B).nonzero(as_tuple=True))
    return {
        "step": step,
        "episode": (episodes + 1).tolist(),
        "gain": [round(value, 4) for value in gain_BK[rows, episodes].tolist()],
        "compression": [round(value, 4) for value in cost_BK[rows, episodes].tolist()],
    }


def append(path: Path, step: int, gain_BK: Tensor, cost_BK: Tensor, count_B: Tensor) -> None:
    """Append the step's `row` to a JSON Lines file."""
    with path.open("a") as stream:
        stream.write(json.dumps(row(step, gain_BK, cost_BK, count_B)) + "\n")


def _exists(values_BK: Tensor, count_B: Tensor) -> Tensor:
    return torch.arange(values_BK.size(1), device=values_BK.device) < count_B[:, None]
