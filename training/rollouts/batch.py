"""What is a batch of rollouts? Prompts and the completions sampled for them, as TRL pads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rollouts:
    """Token ids, and masks that are 1 where there is a token. Completions are right-padded; prompts on either side."""

    prompt_ids_BP: Tensor
    prompt_mask_BP: Tensor
    completion_ids_BT: Tensor
    completion_mask_BT: Tensor

    @classmethod
    def padded(
        cls, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], device: torch.device | None = None
    ) -> Rollouts:
        """Prompts padded on the left, completions on the right."""
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
        """Some of the rows, without columns that are all padding in them."""
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
        """Prompt and completion in one row."""
        return torch.cat([self.prompt_ids_BP, self.completion_ids_BT], 1)

    @property
    def mask_BS(self) -> Tensor:
        return torch.cat([self.prompt_mask_BP, self.completion_mask_BT], 1)
