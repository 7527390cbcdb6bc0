"""What would a run do? Its data, its model without weights, its first batch and its command. Nothing is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from training import precheck
from training.coldstart import marks
from training.config import Recipe
from training.job import checkpoints, trl_settings
from training.job.supervised import micro_batch
from training.recipe_base import BaseStage, PretrainedBase
from training.rollouts.sample import encoded
from training.tasks.question import Question

_GPUS_A_NODE = 8
_LAUNCH = "training/recipes/accelerate"


@dataclass(frozen=True)
class DryRun:
    """What was found."""

    questions: int
    """To train on; with repeats, if the data has fewer."""
    first: Question
    parameters: int
    trained: int
    """Parameters that the family stage changes, of an adapter or of the whole model."""
    rollouts: int
    """Of the first batch, in all processes."""
    micro_batch: int
    """Rollouts in one forward pass of the update, in each process."""
    longest_prompt: int | None
    """Tokens of the batch's longest prompt; None if the tokenizer is not here."""
    commands: tuple[str, ...]
    """What starts the run, in order; with several nodes, the first one on each."""


def dry_run(recipe: Recipe, path: Path, gpus: int) -> DryRun:
    """Everything of a run that needs neither weights nor a GPU. Nothing is written, and at most the base's config
    is downloaded.

    Args:
        recipe: the recipe to run.
        path: where it was read from.
        gpus: the number of processes, with one GPU each.

    Raises:
        StageError: `run` would refuse the recipe.
    """
    precheck.check_target(recipe)
    precheck.check(recipe, gpus)
    questions = precheck.check_data(recipe)
    stage = recipe.family
    batch = questions[: stage.prompts_per_step]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(_config(recipe))
        adapter = trl_settings.adapter(stage, model)
        trained = get_peft_model(model, adapter) if adapter else model
    rollouts = stage.prompts_per_step * stage.rollouts
    return DryRun(
        questions=len(questions),
        first=batch[0],
        parameters=sum(weight.numel() for name, weight in trained.named_parameters() if "lora_" not in name),
        trained=sum(weight.numel() for weight in trained.parameters() if weight.requires_grad),
        rollouts=rollouts,
        micro_batch=micro_batch(rollouts // gpus, stage.micro_batch),
        longest_prompt=_longest_prompt(recipe, batch),
        commands=commands(recipe, path, gpus),
    )


def commands(recipe: Recipe, path: Path, gpus: int) -> tuple[str, ...]:
    """What starts a run on so many GPUs, eight in each node: one command, or stages one by one and then the rest."""
    run = f"laconic-train run {path}"
    if gpus == 1:
        return (run,)
    nodes = -(-gpus // _GPUS_A_NODE)
    launch = f"accelerate launch --config_file {_LAUNCH}/{'8-gpus' if nodes == 1 else '2-nodes'}.yaml"
    if gpus not in (_GPUS_A_NODE, 2 * _GPUS_A_NODE):
        launch += f" --num_processes {gpus}" + (f" --num_machines {nodes}" if nodes > 1 else "")
    if nodes > 1:
        launch += " --machine_rank R --main_process_ip IP --main_process_port 29500"
    before = ()
    if isinstance(recipe.base, BaseStage):
        before = (f"laconic-train base {path}",)
    elif recipe.base.cold_start is not None:
        before = (f"laconic-train cold-start {path}",)
    return *before, f"{launch} -m training.cli family {path}", run


def lines(found: DryRun) -> list[str]:
    """The findings as lines to print."""
    whole = found.trained == found.parameters
    trained = "all of them trained" if whole else f"and an adapter of {found.trained:,}, which is trained"
    prompt = "the tokens of its prompts are known once the tokenizer is here"
    if found.longest_prompt is not None:
        prompt = f"the longest prompt has {found.longest_prompt} tokens"
    return [
        f"data: {found.questions:,} questions to train on; the first is {found.first.prompt[:60]!r}",
        f"model: {found.parameters:,} parameters, {trained}",
        f"first batch: {found.rollouts} rollouts, {found.micro_batch} in a forward pass; {prompt}",
        *(f"start it with: {command}" for command in found.commands),
    ]


def _config(recipe: Recipe) -> PreTrainedConfig:
    base = recipe.base
    if isinstance(base, PretrainedBase) and Path(base.model).is_dir():
        return checkpoints.config(base.model)
    sizes = checkpoints.architecture(recipe).model_dump()
    return AutoConfig.for_model(sizes.pop("model_type"), **sizes)


def _longest_prompt(recipe: Recipe, batch: Sequence[Question]) -> int | None:
    base = recipe.base
    if not isinstance(base, PretrainedBase) or not (directory := Path(base.model)).is_dir():
        return None
    tokenizer = checkpoints.load_tokenizer(directory)
    if base.cold_start is not None:
        marks.add_marks(tokenizer)
    checkpoints.require_markers(directory, tokenizer)
    return max(map(len, encoded(tokenizer, batch)))
