"""What can a recipe say about the reward of each episode of thinking, and how it is measured?"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from training.recipe_base import Section, with_one_place


class Forks(Section):
    """Rollouts that think on where they had stopped (`training/rollouts/forks.py`), so that it is learned where that
    pays."""

    share: float = Field(default=0.25, gt=0, le=1)
    """Share of a step's rollouts that are forked, if so many stopped by themselves."""
    surprised: float = Field(default=0.6, ge=0, le=1)
    """Share of the forks that are the most surprising rollouts; the others are drawn at random."""
    decision_weight: float = Field(default=4.0, gt=0)
    """Weight of the token that decides to think on, relative to the outcome (`training/rewards/decisions.py`)."""


class DenseReward(Section):
    """The reward of each episode of thinking, beside the outcome (Learning to Think, arXiv 2505.10425)."""

    progress_weight: float = Field(default=0.8, ge=0)
    """Weight of the dense reward, gain minus charge, relative to the outcome. The paper calls it alpha; it is not the
    alpha of a checkpoint."""
    compression_weight: float = Field(default=0.6, ge=0)
    """Weight of the charge, of information or of tokens, relative to the gain; the paper's beta. 0: gain alone."""
    charge: Literal["information", "tokens"] = "information"
    """`information`: what the episode says about the parameters, as in the paper. `tokens`: the episode's tokens / the
    group's mean x alpha x compression_weight. Requires reward: l2t; the outcome then ignores length."""
    credit: Literal["episode", "counterfactual", "paper"] = "episode"
    """What an episode's reward is compared with: the group's mean episode, ending the thinking before it
    (counterfactual), or as in the paper's own formula (`training/rewards/credit.py`)."""
    split_by: Literal["blank_line", "tags", "tokens"] = "blank_line"
    tokens_per_episode: int = Field(default=256, gt=0)
    """Only for split_by: tokens."""
    max_episodes: int = Field(default=30, gt=0)
    answer: str = "The answer is {}."
    """How the model states its answer; {} stands for the answer."""
    reading: Literal["joint", "per_token"] = "joint"
    """How P(answer) is computed: of the complete answer, or its geometric mean per token, which suits long answers."""
    proxy_rank: int = Field(default=16, gt=0)
    forks: Forks | None = None
    """Also roll out what stopped rollouts did not think. Requires credit: counterfactual, charge: tokens and split_by:
    blank_line. Default: no forks."""
    memory_gib: float | None = Field(default=None, gt=0)
    """Memory of one packed forward pass for masks, scores and logits; default 1, on a CPU 1/32, to fit its caches."""

    score: Literal["squared", "rao"] = "squared"
    """What an information charge charges for: Rao's score statistic, squared as in the paper or as it is, whose tail
    is less heavy. This field and the next three require charge: information and reward: l2t."""
    per: Literal["episode", "token"] = "episode"
    """`token`: an episode's information charge is divided by its tokens."""
    winsorise: float | None = Field(default=None, gt=0, lt=1)
    """Quantile of a step's episodes that limits the information charge of each, such as 0.99. Default: no limit."""
    scale: Literal["batch", "running"] = "batch"
    """What information charges are divided by: the step's mean rollout, or its exponential mean over the steps."""
    redundancy: Literal["none", "certainty", "solve_rate"] = "none"
    """What a token charge is multiplied by: nothing, the probability of the right answer before the episode
    (certainty), or the share of the prompt's rollouts that are right (solve_rate). Requires charge: tokens."""

    @property
    def charges_information(self) -> bool:
        """Whether the compression score is needed, which costs a pass over the rollouts."""
        return self.compression_weight > 0 and self.charge == "information"

    @property
    def tamed(self) -> list[str]:
        """The fields that change the paper's information charge, as far as they are set."""
        return [name for name in ("score", "per", "winsorise", "scale") if name in self._not_default]

    @property
    def record(self) -> dict[str, Any]:
        """What a checkpoint depends on. Fields that are newer than stored records are left out at their defaults."""
        newer = {"score", "per", "winsorise", "scale", "redundancy", "forks"}
        return self.model_dump(exclude={"memory_gib"} | (newer - self._not_default))

    @property
    def _not_default(self) -> set[str]:
        return set(self.model_dump(exclude_defaults=True))

    @model_validator(mode="after")
    def _has_an_effect(self) -> Self:
        if self.tamed and not self.charges_information:
            raise ValueError(
                f"{self.tamed[0]}: has no effect without charge: information and a compression_weight above 0"
            )
        if self.redundancy != "none" and self.charge != "tokens":
            raise ValueError(f"redundancy: {self.redundancy} has no effect without charge: tokens")
        needed = {"credit": "counterfactual", "charge": "tokens", "split_by": "blank_line"}
        if self.forks and (wrong := [f"{k}: {v}" for k, v in needed.items() if getattr(self, k) != v]):
            raise ValueError(f"forks: need {', '.join(wrong)}")
        return self

    @field_validator("answer")
    @classmethod
    def _one_place(cls, answer: str) -> str:
        return with_one_place(answer)


PROBING = {"answer", "split_by", "tokens_per_episode", "max_episodes", "reading"}
"""Fields of `DenseReward` that say how P(answer) is measured after each episode, whatever it is used for."""
