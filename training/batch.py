"""What is a batch of rollouts? Prompts and the completions sampled for them, as TRL pads them."""

from __future__ import annotations

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

    def __len__(self) -> int:
        return len(self.prompt_ids_BP)

    def __getitem__(self, rows: slice) -> Rollouts:
        return Rollouts(
            self.prompt_ids_BP[rows],
            self.prompt_mask_BP[rows],
            self.completion_ids_BT[rows],
            self.completion_mask_BT[rows],
        )

    @property
    def ids_BS(self) -> Tensor:
        """Prompt and completion in one row."""
        return torch.cat([self.prompt_ids_BP, self.completion_ids_BT], 1)

    @property
    def mask_BS(self) -> Tensor:
        return torch.cat([self.prompt_mask_BP, self.completion_mask_BT], 1)
