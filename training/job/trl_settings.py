"""Which settings do TRL and PEFT get from a recipe, and can they hold on this machine?"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel

with warnings.catch_warnings():
    # On import TRL warns that its vLLM client was not tested with the installed vLLM. We do not use that client.
    warnings.filterwarnings("ignore", message="TRL currently supports vLLM", category=UserWarning)
    from trl import GRPOConfig

from training.config import FamilyStage, checkpoint_name
from training.errors import StageError
from training.job import vllm_server
from training.job.precision import autocast_bf16
from training.job.resume import processes
from training.job.supervised import micro_batch

LONGEST_PROMPT = 2048
"""Prompt tokens that vLLM reserves room for."""


def samples_from_server(stage: FamilyStage) -> bool:
    """Whether rollouts come from a vLLM server of our own: with `engine: vllm` where there is no GPU."""
    return stage.engine == "vllm" and not torch.cuda.is_available()


def adapter(stage: FamilyStage, model: PreTrainedModel | PeftModel) -> LoraConfig | None:
    """The LoRA adapter to add; None for full fine-tuning, or if the model has one that goes on training."""
    if stage.tune == "full" or isinstance(model, PeftModel):
        return None
    settings: dict[str, Any] = {"target_modules": "all-linear"}
    if stage.lora_layers == "upper_half":
        head = model.get_output_embeddings()
        linear = [
            name for name, part in model.named_modules() if isinstance(part, torch.nn.Linear) and part is not head
        ]
        layers = model.config.get_text_config().num_hidden_layers
        settings = {
            "target_modules": sorted({name.rpartition(".")[2] for name in linear}),
            "layers_to_transform": list(range(layers // 2, layers)),
        }
    return LoraConfig(r=stage.lora_rank, lora_alpha=2 * stage.lora_rank, task_type="CAUSAL_LM", **settings)


def grpo_config(stage: FamilyStage, alpha: float, seed: int, work: Path, positions: int | None = None) -> GRPOConfig:
    """TRL's settings for one training run; `positions` is the longest sequence that the model takes.

    Raises:
        StageError: a step's rollouts do not divide over the processes, or vLLM cannot sample them here.
    """
    count = processes().num_processes
    rollouts, rest = divmod(stage.prompts_per_step * stage.rollouts, count)
    if rest:
        raise StageError(
            f"family: {stage.prompts_per_step} prompts_per_step x {stage.rollouts} rollouts do not divide"
            f" over {count} processes"
        )
    require_whole_weights()
    if stage.engine == "vllm":
        _require_vllm(stage, count)
    micro = micro_batch(rollouts, stage.micro_batch)
    return GRPOConfig(
        output_dir=str(work),
        run_name=checkpoint_name(alpha),
        max_steps=stage.steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=rollouts // micro,
        num_generations=stage.rollouts,
        max_completion_length=stage.max_tokens,
        temperature=stage.temperature,
        learning_rate=stage.lr,
        lr_scheduler_type="constant_with_warmup" if stage.schedule == "constant" else "cosine",
        warmup_steps=max(1, int(stage.steps * stage.warmup)),
        max_grad_norm=1.0,
        weight_decay=stage.weight_decay,
        adam_beta2=0.95,
        beta=stage.kl,
        loss_type="dr_grpo" if stage.loss == "token_sum" else "grpo",
        scale_rewards="none",
        bf16=autocast_bf16(),
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=stage.gradient_checkpointing,
        use_vllm=stage.engine == "vllm" and not samples_from_server(stage),
        vllm_mode="colocate",
        vllm_max_model_length=min(stage.max_tokens + LONGEST_PROMPT, positions or stage.max_tokens + LONGEST_PROMPT),
        vllm_importance_sampling_mode="token_truncate",
        shuffle_dataset=False,
        logging_steps=1,
        save_steps=stage.save_every,
        save_total_limit=2,
        report_to=["tensorboard"],
        dataloader_pin_memory=False,
        seed=seed,
    )


def require_whole_weights() -> None:
    """Raise if `accelerate launch` shards the weights themselves.

    Sampling, the dense reward and saving read the weights between updates.
    """
    config = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "")
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "")
    if config.endswith(".json"):
        try:
            stage = str(json.loads(Path(config).read_text())["zero_optimization"]["stage"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StageError(f"accelerate: the stage of ZeRO cannot be read from {config} ({error!r})") from None
    sharded = "ZeRO stage 3" if stage == "3" and os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true" else ""
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        sharded = "FSDP"
    if sharded:
        raise StageError(
            f"accelerate: {sharded} shards the weights, which the rollouts read whole between updates; use ZeRO stage"
            " 2, as training/recipes/accelerate/8-gpus.yaml does"
        )


def _require_vllm(stage: FamilyStage, count: int) -> None:
    """Raise unless vLLM is installed and can sample for this stage: without a GPU, for one process."""
    vllm_server.require_installed()
    if not samples_from_server(stage):
        return
    if count > 1:
        raise StageError(
            f"family.engine: vllm samples for one process where there is no GPU, not for {count}; start laconic-train"
            " without accelerate, or set engine: transformers"
        )
