"""What can a recipe say? The YAML schema of `laconic-train`, validated before anything is computed."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from models.field import path_of
from training.recipe_base import BaseStage, PretrainedBase, Section
from training.recipe_deciding import Deciding
from training.recipe_dense import PROBING, DenseReward


class RecipeError(ValueError):
    """The recipe cannot be used. The message is one line that names the field."""


def checkpoint_name(alpha: float) -> str:
    """The name of the checkpoint trained at this alpha."""
    return f"alpha-{alpha:g}"


class Data(Section):
    """The questions. Default: the arithmetic of the shipped family, generated on the fly."""

    task: Literal["arithmetic", "gsm8k", "math", "jsonl"] = "arithmetic"
    path: Path | None = None
    """The directory or file of the other tasks; `training/tasks/files.py` lists the files."""
    instruction: str = ""
    """Appended to each question after a line break."""
    skip_unverifiable: bool = False
    """Skip rows without a question, without an answer that can be verified, or whose question has another answer
    elsewhere, instead of rejecting the data. How many were skipped and why is said once."""
    test: Path | None = None
    """A file of test questions of your own, such as AIME's or AMC's. They replace the task's held-out split."""
    hard_share: float | None = Field(default=None, ge=0, le=1)
    """Share of the training questions that are hard, in arithmetic; the rest are easy and medium in equal parts.
    Default: a third of each difficulty."""

    @model_validator(mode="after")
    def _has_a_path(self) -> Self:
        if (self.path is None) != (self.task == "arithmetic"):
            raise ValueError(f"path: {'must be absent' if self.path else 'is needed'} with task: {self.task}")
        if self.test is not None and self.path is None:
            raise ValueError(f"test: must be absent with task: {self.task}")
        if self.hard_share is not None and self.task != "arithmetic":
            raise ValueError(f"hard_share: must be absent with task: {self.task}")
        return self


Reward = Literal["outcome", "alpha", "truncation", "solve_rate", "progress", "l2t"]
OutcomeRule = Literal["alpha", "truncation", "solve_rate"]
_Alpha = Annotated[float, Field(ge=0, lt=1), AfterValidator(abs)]  # -0.0 is 0


class FamilyStage(Section):
    """Reinforcement fine-tuning: one checkpoint per alpha (arXiv 2502.04463)."""

    reward: Reward = "alpha"
    """`alpha`: 1{correct} (1 - alpha f(length)). `outcome`: the same at alpha 0. `truncation`: 1{correct} up to
    (1 - alpha) max_tokens (DLER). `solve_rate`: 1{correct} minus alpha times the prompt's solve rate times length /
    max_tokens (ALP). `progress` adds the gain of each episode to `alpha`; `l2t` also charges each episode (see
    DenseReward.charge). All but `outcome` work at any alpha."""
    alphas: tuple[_Alpha, ...] = Field(default=(0.0, 0.1, 0.2, 0.4), min_length=1)
    steps: int = Field(default=32, gt=0)
    prompts_per_step: int = Field(default=32, gt=0)
    rollouts: int = Field(default=8, ge=2)
    lr: float = Field(default=1e-3, gt=0)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps in which the learning rate rises from 0, at the first step, to lr; at least one step."""
    weight_decay: float = Field(default=0.0, ge=0)
    questions: Literal["all", "solved"] = "all"
    """Which training questions are drawn. `solved`: only those that the cold start's samples solved at least once. A
    price on the length of right answers teaches nothing where no rollout is right."""
    tune: Literal["lora", "full"] = "lora"
    lora_rank: int = Field(default=16, gt=0)
    lora_layers: Literal["all", "upper_half"] = "all"
    """Which layers an adapter changes. The upper half trains faster: below it, no gradient is computed."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What samples the rollouts. vllm shares the GPU with the training; without a GPU, a vLLM server takes turns with
    it on the CPU."""
    gradient_checkpointing: bool = False
    micro_batch: int = Field(default=32, gt=0)
    """Maximum number of rollouts in one forward pass of the update."""
    loss: Literal["token_sum", "sequence_mean"] = "token_sum"
    """A token sum over a constant, or the mean of each sequence, which shortens thinking at any alpha."""
    normalise_advantages: bool = False
    """Divide a step's advantages by their standard deviation (DLER), for rare rewards. Not with a dense reward."""
    overlong_window: int = Field(default=0, ge=0)
    """Tokens before max_tokens in which a penalty grows from 0 to -1 (DAPO's soft overlong punishment). 0: none."""
    kl: float = Field(default=0.0, ge=0)
    """Coefficient of the KL divergence from the base, as TRL estimates it (k3)."""
    max_tokens: int = Field(default=320, gt=0)
    temperature: float = Field(default=1.0, gt=0)
    """Temperature of the rollouts in the first step. A base served at a low one learns more from higher ones."""
    last_temperature: float | None = Field(default=None, gt=0)
    """Temperature at the last step, annealed linearly from `temperature`. Default: constant."""
    dense: DenseReward | None = None
    """Settings of the dense reward, if `reward` is `progress` or `l2t`. With other rewards only those of `PROBING`, for
    deciding, experiments and the published answer prefix."""
    deciding: Deciding | None = None
    """Fine-tuning behind each alpha's training, of where another episode pays. Default: none."""
    save_every: int = Field(default=4, gt=0)

    @model_validator(mode="after")
    def _different(self) -> Self:
        names = [checkpoint_name(alpha) for alpha in self.alphas]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"alphas: two checkpoints would have the name {twice[0]}")
        if self.reward == "outcome" and self.alphas != (0,):
            raise ValueError("alphas: must be [0] with reward: outcome; reward: alpha takes others")
        if self.overlong_window > self.max_tokens:
            raise ValueError(f"overlong_window: must be at most max_tokens, {self.max_tokens}")
        if self.normalise_advantages and self.reward in ("progress", "l2t"):
            raise ValueError(f"normalise_advantages: must be false with reward: {self.reward}")
        if self.deciding and self.dense and self.dense.split_by != "blank_line":
            raise ValueError(f"deciding: needs dense.split_by: blank_line, not {self.dense.split_by}")
        if self.deciding and self.deciding.when == "before" and self.kl:
            raise ValueError("kl: must be 0 with deciding.when: before, where training does not start at the base")
        return self

    @model_validator(mode="after")
    def _adapts(self) -> Self:
        if self.lora_layers != "all" and self.tune == "full":
            raise ValueError(f"lora_layers: must be all with tune: full, which has no adapter, not {self.lora_layers}")
        return self

    @model_validator(mode="after")
    def _dense_has_an_effect(self) -> Self:
        if self.dense and self.reward not in ("progress", "l2t"):
            given = self.dense.model_fields_set
            if not given or given - PROBING:
                raise ValueError(
                    f"dense: must be absent with reward: {self.reward}, except for {', '.join(sorted(PROBING))}"
                )
        if self.dense and self.dense.tamed and self.reward == "progress":
            raise ValueError(f"dense.{self.dense.tamed[0]}: has no effect with reward: progress, which charges nothing")
        charges_tokens = self.dense is not None and self.dense.charge == "tokens"
        if charges_tokens and not (self.reward == "l2t" and self.dense_reward and self.dense_reward.compression_weight):
            raise ValueError(
                "dense.charge: tokens needs reward: l2t and a compression_weight above 0, else alpha has no effect"
            )
        return self

    @property
    def outcome_rule(self) -> OutcomeRule:
        """How length reduces the outcome; the dense rewards reduce it as `alpha` does."""
        return self.reward if self.reward in ("truncation", "solve_rate") else "alpha"

    @property
    def stated_probe(self) -> DenseReward | None:
        """How P(answer) after each episode is measured, as far as the stage says; None if it does not."""
        return self.dense_reward or self.dense

    @property
    def dense_reward(self) -> DenseReward | None:
        """The settings of the dense reward; None without one."""
        if self.reward not in ("progress", "l2t"):
            return None
        dense = self.dense or DenseReward()
        return dense if self.reward == "l2t" else dense.model_copy(update={"compression_weight": 0.0})


class EvaluateStage(Section):
    """Accuracy and reasoning tokens on held-out prompts."""

    prompts: int = Field(default=900, ge=3)
    """In arithmetic about a third of each difficulty, with somewhat fewer easy ones, because fewer exist."""
    samples: int = Field(default=4, gt=0)
    temperature: float = Field(default=1.0, ge=0)


class ProfileStage(Section):
    """The difficulty profile, fitted on outcomes on validation prompts."""

    prompts: int = Field(default=1500, ge=5)
    """At least five, for five folds of cross-validation."""
    samples: int = Field(default=4, gt=0)
    encoder: bool = False
    """Whether the sentence encoder of the extra `encoder` may read prompts; the gateway then needs it, too."""
    budget_forced_prompts: int = Field(default=2000, ge=5)
    """How many of these prompts are also measured with budget-forced thinking."""

    @property
    def budget_forced_count(self) -> int:
        """`budget_forced_prompts`, or the number of prompts if that is less."""
        return min(self.budget_forced_prompts, self.prompts)


_KIND = ("trained", "pretrained")
LARGEST_SEED = 2**31


def _has_model(raw: object) -> bool:
    return isinstance(raw, PretrainedBase) or (isinstance(raw, dict) and "model" in raw)


class Recipe(Section):
    """A whole training run. Unknown fields are rejected."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64)
    description: str
    seed: int = Field(default=0, ge=0, lt=LARGEST_SEED)
    run_dir: Path
    publish_to: Path | None = None
    """None: only for `laconic-train experiment`, which publishes nothing."""
    base: Annotated[
        Annotated[BaseStage, Tag("trained")] | Annotated[PretrainedBase, Tag("pretrained")],
        Discriminator(lambda raw: _KIND[_has_model(raw)]),
    ] = BaseStage()
    data: Data = Data()
    family: FamilyStage = FamilyStage()
    evaluate: EvaluateStage = EvaluateStage()
    profile: ProfileStage = ProfileStage()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.family.max_tokens >= self.base.context_tokens:
            raise ValueError(
                f"family.max_tokens ({self.family.max_tokens}) must leave room for the prompt"
                f" in base.context_tokens ({self.base.context_tokens})"
            )
        cold, dense = getattr(self.base, "cold_start", None), self.family.stated_probe
        if cold is not None and dense is not None and dense.answer != cold.answer:
            raise ValueError(
                f"family.dense.answer: {dense.answer!r} must be base.cold_start.answer, {cold.answer!r}:"
                " so the model states its answers"
            )
        if self.family.deciding and self.family.deciding.hard_share is not None and self.data.task != "arithmetic":
            raise ValueError(f"family.deciding.hard_share: must be absent with data.task: {self.data.task}")
        if self.family.questions == "solved" and cold is None:
            raise ValueError("family.questions: solved needs base.cold_start, which samples the questions")
        if self.evaluate.temperature == 0:
            for stage, samples in (("evaluate", self.evaluate.samples), ("profile", self.profile.samples)):
                if samples > 1:
                    raise ValueError(
                        f"{stage}.samples: {samples} samples at evaluate.temperature 0 are {samples} times the same;"
                        " set it to 1, or raise the temperature"
                    )
        if self.publish_to is not None and self.run_dir.absolute().is_relative_to(self.publish_to.absolute()):
            raise ValueError(f"publish_to: {self.publish_to} would replace run_dir, which is {self.run_dir}")
        if self.data.task != "arithmetic" and isinstance(self.base, BaseStage):
            raise ValueError("base: only the arithmetic task can train a base; name an existing model in base.model")
        return self

    @property
    def probe(self) -> DenseReward:
        """How P(answer) after each episode is measured: as the dense reward does, or as it would without being one."""
        if dense := self.family.stated_probe:
            return dense
        cold = self.base.cold_start if isinstance(self.base, PretrainedBase) else None
        return DenseReward(answer=cold.answer) if cold else DenseReward()

    @property
    def probe_record(self) -> dict[str, Any]:
        """The probe, in records of recipes without a dense reward; empty at the default, as it was always that."""
        own = self.family.dense_reward is None and self.probe != DenseReward()
        return {"probe": self.probe.record} if own else {}

    def with_seed(self, seed: int) -> Recipe:
        """The same run with another seed, in a directory of its own."""
        return self.model_copy(update={"seed": seed, "run_dir": self.run_dir / f"seed-{seed}"})


class _Loader(yaml.SafeLoader):
    """Rejects a field that is there twice, of which YAML would silently ignore the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = set[str]()
        for key, _ in node.value:
            if key.value in names:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is there twice", key.start_mark)
            names.add(key.value)
        return super().construct_mapping(node, deep)


def load(path: Path) -> Recipe:
    """Read and validate a recipe.

    Raises:
        RecipeError: the file is missing, not YAML, or a field is unknown or out of range.
    """
    try:
        raw = yaml.load(path.read_text(), _Loader)  # noqa: S506 - a subclass of SafeLoader
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror})") from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise RecipeError(f"{path}: {line}not YAML ({error.problem})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not YAML ({str(error).splitlines()[0]})") from None
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = path_of(part for part in first["loc"] if part not in _KIND) or "recipe"
        message = _no_such_field(str(first["loc"][-1])) if first["type"] == "extra_forbidden" else first["msg"]
        raise RecipeError(f"{path}: {field}: {message.removeprefix('Value error, ')}") from None


def _no_such_field(name: str) -> str:
    """What to say about a field that there is not, with the one that was probably meant."""
    known = {field for section in Section.__subclasses__() for field in section.model_fields}
    close = get_close_matches(name, known - {name}, 1)
    return f"there is no such field; did you mean {close[0]}?" if close else "there is no such field here"
