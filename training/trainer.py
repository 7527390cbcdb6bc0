"""How is one efficient checkpoint trained? TRL's `GRPOTrainer` with the alpha reward and leave-one-out advantages.

What differs from stock GRPO, and why:
- The reward needs the whole group's lengths, and a group may span processes, so it is computed after the gather.
- Advantages are leave-one-out and never divided by a standard deviation; they are handed over as (B, T), one per
  token, which is where dense credit enters.
- The loss is a token sum over a constant (`dr_grpo`): a mean per sequence would shorten answers already at alpha 0.
- Rollouts come from `training.rollout`; micro-batches are sorted by length and trimmed.

There is one update per generation, so rollouts are on-policy and there is no ratio to clip.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

with warnings.catch_warnings():
    # TRL looks at the installed vLLM on import and warns that it has not been tried with its client. We do not use it.
    warnings.filterwarnings("ignore", message="TRL currently supports vLLM", category=UserWarning)
    from trl import GRPOConfig, GRPOTrainer

from training.config import FamilyStage, checkpoint_name
from training.credit import leave_one_out
from training.judge import Judge
from training.errors import StageError
from training.metrics import JsonLines, show_in_bar
from training.precision import autocast_bf16
from training.resume import MarkComplete, last_checkpoint, processes
from training.rewards.length import length_reward
from training.rollout import sample
from training.tasks.prompts import Prompt

MICRO_BATCH = 32
"""Most rollouts in one forward pass of the update."""


class FamilyTrainer(GRPOTrainer):
    """A_i = r_i - mean of the others' r, with r = 1{correct} (1 - alpha f(length)) (arXiv 2502.04463)."""

    def __init__(self, *, alpha: float, **kwargs: Any) -> None:
        super().__init__(reward_funcs=[alpha_reward], **kwargs)
        self._alpha = alpha
        self._judge = Judge(self.processing_class)
        self._rewards = torch.empty(0)

    def _generate_single_turn(self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """One completion per prompt; prompts are repeated already. The adapter is merged while it samples."""
        model = self.accelerator.unwrap_model(self.model)
        with _merged(model):
            completion_ids = sample(
                model,
                prompt_ids,
                max_tokens=self.args.max_completion_length,
                temperature=self.args.temperature,
                eos=self.processing_class.eos_token_id,
            )
        return completion_ids, None

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: Any, completions: Any, completion_ids_list: list[list[int]]
    ) -> Tensor:
        """Rewards of every process's rollouts, (B * processes, 1)."""
        outcomes = [self._judge(ids, row["gold"]) for ids, row in zip(completion_ids_list, inputs, strict=True)]
        local = [[o.correct, o.tokens, o.reasoning_tokens, o.episodes, o.finished] for o in outcomes]
        table = gather(torch.tensor(local, dtype=torch.float32, device=self.accelerator.device))
        correct, tokens, reasoning, episodes, finished = table.unbind(1)
        self._rewards = length_reward(correct, tokens, self.num_generations, self._alpha)
        for name, values in {
            "accuracy": correct,
            "reasoning_tokens": reasoning,
            "episodes": episodes,
            "finished": finished,
        }.items():
            self._metrics["train"][f"rollout/{name}"].append(values.mean().item())
        return self._rewards[:, None]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        own = slice(self.accelerator.process_index * len(inputs), (self.accelerator.process_index + 1) * len(inputs))
        advantages_B = leave_one_out(self._rewards, self.num_generations)[own]
        output["advantages"] = advantages_B[:, None] * output["completion_mask"]
        return output

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """Undo the shuffle before the split: all micro-batches go into one update, and sorted ones pad less."""
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if self._buffered_inputs is before:
            return inputs
        self._buffered_inputs = sorted_by_length(self._buffered_inputs)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]


@contextmanager
def _merged(model: Any) -> Iterator[None]:
    """The adapter merged into the base, and afterwards the base to the bit as it was.

    Taking the adapter off again by subtraction would leave a rounding behind at every step, which a resumed run, that
    starts from the base on disk, would not have.
    """
    frozen = [p for p in model.parameters() if not p.requires_grad]
    before = [p.detach().clone() for p in frozen]
    model.merge_adapter()
    try:
        yield
    finally:
        model.unmerge_adapter()
        with torch.no_grad():
            for parameter, value in zip(frozen, before, strict=True):
                parameter.copy_(value)


def alpha_reward(**_: Any) -> list[float]:
    """Names the reward in TRL's logs; it needs the gathered group, see `FamilyTrainer._calculate_rewards`."""
    raise AssertionError("computed after the gather")


def sorted_by_length(batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rollouts in batches of the same size, long ones together, without columns that are all padding."""
    rows = {
        key: torch.cat([b[key] for b in batches])
        for key, value in batches[0].items()
        if isinstance(value, Tensor) and value.ndim
    }
    shared = {key: value for key, value in batches[0].items() if key not in rows}
    order = rows["completion_mask"].sum(1).argsort(descending=True)
    size = len(order) // len(batches)
    result: list[dict[str, Any]] = []
    for start in range(0, len(order), size):
        batch = {key: value[order[start : start + size]] for key, value in rows.items()}
        width = {
            "prompt": int(batch["prompt_mask"].sum(1).max()),
            "completion": int(batch["completion_mask"].sum(1).max()),
        }
        for key in ("prompt_ids", "prompt_mask"):
            batch[key] = batch[key][:, -width["prompt"] :]
        for key, value in batch.items():
            if not key.startswith("prompt") and value.ndim == 2:
                batch[key] = value[:, : width["completion"]]
        result.append({**shared, **batch})
    return result


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    stage: FamilyStage,
    prompts: list[Prompt],
    *,
    alpha: float,
    seed: int,
    work: Path,
) -> FamilyTrainer:
    """Train one adapter at efficiency level `alpha`, or go on where `work` stands; returns the trainer with the result.

    Raises:
        StageError: the rollouts of a step do not divide over the processes.
    """
    arguments = _arguments(stage, alpha, seed, work)
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": p.prompt}], "gold": p.answer} for p in prompts])
    trainer = FamilyTrainer(
        alpha=alpha,
        model=model,
        args=arguments,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=stage.lora_rank, lora_alpha=2 * stage.lora_rank, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        callbacks=[MarkComplete(), JsonLines(work.parent / "metrics.jsonl")],
    )
    show_in_bar(trainer)
    trainer.train(resume_from_checkpoint=last_checkpoint(work))
    return trainer


def _arguments(stage: FamilyStage, alpha: float, seed: int, work: Path) -> GRPOConfig:
    count = processes().num_processes
    rollouts, rest = divmod(stage.prompts_per_step * stage.rollouts, count)
    if rest:
        raise StageError(
            f"family: {stage.prompts_per_step} prompts_per_step x {stage.rollouts} rollouts do not divide"
            f" over {count} processes"
        )
    micro = max(size for size in range(1, MICRO_BATCH + 1) if rollouts % size == 0)
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
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=max(1, stage.steps // 20),
        max_grad_norm=1.0,
        weight_decay=0.0,
        adam_beta2=0.95,
        beta=stage.kl,
        loss_type="dr_grpo" if stage.loss == "token_sum" else "grpo",
        scale_rewards="none",
        bf16=autocast_bf16(),
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=False,
        shuffle_dataset=False,
        logging_steps=1,
        save_steps=stage.save_every,
        save_total_limit=2,
        report_to=["tensorboard"],
        dataloader_pin_memory=False,
        seed=seed,
    )
