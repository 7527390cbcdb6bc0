"""What can a recipe say about learning to decide? Fine-tuning of the token that opens another episode."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from training.recipe_base import Section

TRIES = 4
"""How often the base thinks on from a wrong pass: whether a check mends it is chance, what it is worth is the mean."""


class Deciding(Section):
    """Supervised fine-tuning of where another episode of thinking pays (`training/deciding/`). Not at alpha 0, where
    thinking costs nothing."""

    when: Literal["before", "after"] = "after"
    """Before or after a checkpoint's reinforcement learning. Before: the base learns it, the rollouts of the
    reinforcement learning are short from its first step, and its price goes on shaping the decisions. All alphas share
    what was tried."""
    questions: int = Field(default=12000, ge=8)
    """Training questions, each answered once."""
    hard_share: float | None = Field(default=None, ge=0, le=1)
    """Share of them that are hard, in arithmetic. Default: as in `data`."""
    price: float = Field(default=0.01, gt=0)
    """What a token of thinking costs at alpha 1, in P(right answer). Another episode pays if what it gains is more than
    alpha x price x its tokens."""
    epochs: int = Field(default=2, gt=0)
    batch: int = Field(default=32, gt=0)
    """Rollouts for one update."""
    micro_batch: int = Field(default=16, gt=0)
    lr: float = Field(default=1e-3, gt=0)
    save_every: int = Field(default=50, gt=0)

    @property
    def record(self) -> dict[str, Any]:
        """What a checkpoint depends on."""
        # `when` is left out at "after": it was so before it could be set.
        return self.model_dump(exclude={"micro_batch", "save_every"} | ({"when"} if self.when == "after" else set()))
