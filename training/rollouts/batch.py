"""What is a batch of rollouts? Prompts and completions as TRL pads them, and the micro-batches of an update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rollouts:
    """Token ids, and masks that are 1 where there is a token. Completions are right-padded, prompts on either side."""

    prompt_ids_BP: Tensor
    prompt_mask_BP: Tensor
    completion_ids_BT: Tensor
    completion_mask_BT: Tensor

    @classmethod
    def padded(
        cls, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], device: torch.device | None = None
    ) -> Rollouts:
        """A batch of unpadded sequences: prompts are padded on the left, completions on the right."""
        wide, long = max(map(len, prompts)), max(map(len, completions))
        return cls(
            *(
                torch.tensor(rows, dtype=torch.long, device=device)
                for rows in (
                    [[0] * (wide - len(p)) + list(p) for p in prompts],
                    [[0] * (wide - len(p)) + [1] * len(p) for p in prompts],
                    [list(c) + [0] * (long - len(c)) for c in completions],
                    [[1] * len(c) + [0] * (long - len(c)) for c in completions],
                )
            )
        )

    def __len__(self) -> int:
        return len(self.prompt_ids_BP)

    def __getitem__(self, rows: slice | Tensor) -> Rollouts:
        """Some of the rows, without the columns that hold only padding in them."""
        prompt_mask, completion_mask = self.prompt_mask_BP[rows], self.completion_mask_BT[rows]
        prompt, completion = (mask.bool().any(0) for mask in (prompt_mask, completion_mask))
        return Rollouts(
            self.prompt_ids_BP[rows][:, prompt],
            prompt_mask[:, prompt],
            self.completion_ids_BT[rows][:, completion],
            completion_mask[:, completion],
        )

    @property
    def ids_BS(self) -> Tensor:
        """Prompt and completion of each rollout, one after the other."""
        return torch.cat([self.prompt_ids_BP, self.completion_ids_BT], 1)

    @property
    def mask_BS(self) -> Tensor:
        return torch.cat([self.prompt_mask_BP, self.completion_mask_BT], 1)


def sorted_by_length(batches: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rollouts in as many micro-batches of TRL's, longest completions first, without all-padding columns."""
    rows = {
        key: torch.cat([batch[key] for batch in batches])
        for key, value in batches[0].items()
        if isinstance(value, Tensor) and value.ndim
    }
    shared = {key: value for key, value in batches[0].items() if key not in rows}
    order = rows["completion_mask"].sum(1).argsort(descending=True)
    size = len(order) // len(batches)
    chunks = [order[start : start + size] for start in range(0, len(order), size)]
    return [{**shared, **_trimmed({key: value[chunk] for key, value in rows.items()})} for chunk in chunks]


def _trimmed(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Prompts as wide as their longest, padded on the left; everything per completion token, as the longest one."""
    prompt, completion = (int(batch[f"{part}_mask"].sum(1).max()) for part in ("prompt", "completion"))
    width = {True: slice(-prompt, None), False: slice(completion)}
    return {
        key: value[:, width[key.startswith("prompt")]] if value.ndim == 2 else value for key, value in batch.items()
    }
