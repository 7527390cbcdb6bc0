"""What does `laconic-train plan` print and refuse? Torch is loaded only to ask the Hub for a model's sizes."""

from __future__ import annotations

from rich.table import Table

from training import precheck
from training.config import Recipe
from training.errors import StageError
from training.job import base_files, planning


def tables(
    recipe: Recipe,
    *,
    gpus: int,
    shard: bool,
    gpu_gib: float,
    tflops: float,
    price: float,
    prompt_tokens: int | None = None,
) -> tuple[list[Table], StageError | None]:
    """The tables of memory and work, and why `run` would refuse the data, if it would.

    Args:
        recipe: the recipe to run.
        gpus: the number of processes, with one GPU each.
        shard: whether DeepSpeed shards optimizer state and gradients over the GPUs (ZeRO stage 2).
        gpu_gib: memory of one GPU in GiB.
        tflops: TFLOP/s that one GPU sustains.
        price: of one GPU for an hour.
        prompt_tokens: tokens of a long prompt; None estimates them from the questions.

    Raises:
        StageError: `run` would refuse anything but the data.
    """
    if (rollouts := recipe.family.prompts_per_step * recipe.family.rollouts) < gpus:
        raise StageError(f"--gpus: {gpus} processes cannot share the {rollouts} rollouts of a step")
    precheck.check_target(recipe)
    precheck.check(recipe, gpus)
    refusal, estimated = None, planning.PROMPT_TOKENS
    try:
        estimated = planning.long_prompt_tokens([question.prompt for question in precheck.check_data(recipe)])
    except StageError as error:
        refusal = error
    sizes = base_files.architecture(recipe)
    if sizes is None:
        from training.job import checkpoints

        sizes = checkpoints.architecture(recipe)
    plan = planning.estimate(
        recipe, sizes, gpus=gpus, prompt_tokens=prompt_tokens or estimated, shard=shard, gpu_gib=gpu_gib
    )
    return planning.tables(plan, gpus=gpus, gpu_gib=gpu_gib, tflops=tflops, price=price), refusal
