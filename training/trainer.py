"""How is one efficient checkpoint trained? TRL's `GRPOTrainer` with the alpha reward, dense if wanted.

What differs from stock GRPO, and why:
- The reward needs the whole group's lengths, and a group may span processes, so it is computed after the gather.
- Advantages are leave-one-out and never divided by a standard deviation (but in the paper's own dense credit); they are
  handed over as (B, T), one per token, which is where dense credit enters.
- The loss is a token sum over a constant (`dr_grpo`): a mean per sequence would shorten answers already at alpha 0.
- Rollouts come from `training.rollouts.sample`, or from vLLM; micro-batches are sorted by length and trimmed.

There is one update per generation, so rollouts are on-policy and there is no ratio to clip. Where vLLM sampled them,
each token's loss is weighted by the ratio of the trained model's probability to vLLM's, at most 3 (TRL's correction).
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather, reduce
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

with warnings.catch_warnings():
    # TRL looks at the installed vLLM on import and warns that it has not been tried with its client. We do not use it.
    warnings.filterwarnings("ignore", message="TRL currently supports vLLM", category=UserWarning)
    from trl import GRPOConfig, GRPOTrainer

from training.config import DenseReward, FamilyStage, checkpoint_name
from training.errors import StageError
from training.job.metrics import JsonLines, show_in_bar
from training.job.precision import autocast_bf16
from training.job.resume import MarkComplete, last_checkpoint, processes
from training.rewards.credit import (
    counterfactual_credit,
    episode_credit,
    leave_one_out,
    paper_credit,
    scaled,
    token_rewards,
)
from training.rewards.dense import EpisodeGrader
from training.rewards.information_gain import gains
from training.rewards.length import length_reward
from training.rollouts.batch import Rollouts
from training.rollouts.grade import Grader
from training.rollouts.params import SamplingParams
from training.rollouts.sample import keeps_everything, sample
from training.tasks.question import Question

LONGEST_PROMPT = 2048
"""Tokens of a prompt that vLLM keeps room for."""
NOTED = 300
"""Most episodes of a step that are kept for the report."""
VERSION = 2
"""Of what a training does; another number is another training, of which nothing is taken over."""


class FamilyTrainer(GRPOTrainer):
    """A_i = r_i - mean of the others' r, with r = 1{correct} (1 - alpha f(length)) (arXiv 2502.04463).

    With `dense`, every episode of thinking has an advantage of its own besides (arXiv 2505.10425).
    """

    def __init__(
        self, *, alpha: float, dense: DenseReward | None, last_temperature: float | None, notes: Path, **kwargs: Any
    ) -> None:
        super().__init__(reward_funcs=[alpha_reward], **kwargs)
        self._first_temperature = self.args.temperature
        self._last_temperature = last_temperature or self._first_temperature
        self._alpha, self._dense, self._notes = alpha, dense, notes
        self._outcome_alpha = 0.0 if dense and dense.charge == "tokens" else alpha  # or length would be paid for twice
        self._judge = Grader(self.processing_class, dense)
        self._episode_judge = EpisodeGrader(self.processing_class, dense) if dense else None
        self._rewards = torch.empty(0)
        self._seen: list[Tensor] | None = None
        cools = self._last_temperature != self._first_temperature
        self._scored_at = self._bound_temperatures() if cools else []

    def _generate_single_turn(self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """One completion per prompt; prompts are repeated already. The adapter is merged while it samples."""
        model = self.accelerator.unwrap_model(self.model)
        if self.use_vllm:
            with _unchanged(model):  # TRL merges the adapter to hand the weights over, and takes it off by subtraction
                return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        self._seen = [] if self._spares_a_pass(model) else None
        with _merged(model):
            completion_ids = sample(
                model,
                prompt_ids,
                SamplingParams(self.args.max_completion_length, self.temperature),
                eos=self.processing_class.eos_token_id,
                keep=self._seen,
            )
        return completion_ids, None

    def _spares_a_pass(self, model: Any) -> bool:
        """Whether what attention keeps of the rollouts is put by; on a GPU room is dearer than time."""
        wanted = self._dense is not None and not self._dense.charges_information
        return wanted and model.device.type == "cpu" and keeps_everything(model)

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: Any, completions: Any, completion_ids_list: list[list[int]]
    ) -> Tensor:
        """Rewards of every process's rollouts, (B * processes, 1)."""
        outcomes = [self._judge(ids, row["gold"]) for ids, row in zip(completion_ids_list, inputs, strict=True)]
        local = [[o.correct, o.tokens, o.reasoning_tokens, o.episodes, o.finished] for o in outcomes]
        table = gather(torch.tensor(local, dtype=torch.float32, device=self.accelerator.device))
        correct, tokens, reasoning, episodes, finished = table.unbind(1)
        self._rewards = length_reward(correct, tokens, self.num_generations, self._outcome_alpha)
        measured = {"accuracy": correct, "reasoning_tokens": reasoning, "episodes": episodes, "finished": finished}
        self._log({f"rollout/{name}": values.mean().item() for name, values in measured.items()})
        return self._rewards[:, None]

    def _cool(self) -> None:
        """Set the temperature of this step's rollouts, and of the probabilities that their update is about."""
        done = self.state.global_step / max(1, self.state.max_steps - 1)
        self.temperature = self._first_temperature + done * (self._last_temperature - self._first_temperature)
        for cell in self._scored_at:
            cell.cell_contents = self.temperature
        if self.use_vllm:
            self.vllm_generation.temperature = self.temperature
        self._log({"rollout/temperature": self.temperature})

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._cool()
        output = super()._generate_and_score_completions(inputs)
        own = slice(self.accelerator.process_index * len(inputs), (self.accelerator.process_index + 1) * len(inputs))
        if self._episode_judge is None:
            advantages_B = leave_one_out(self._rewards, self.num_generations)[own]
            output["advantages"] = advantages_B[:, None] * output["completion_mask"]
        else:
            output["advantages"] = self._dense_advantages(output, [row["gold"] for row in inputs], own)
        return output

    def _dense_advantages(self, output: dict[str, Any], golds: list[str], own: slice) -> Tensor:
        """One advantage per token of this process's rollouts, (B, T)."""
        assert self._dense
        assert self._episode_judge
        began = time.perf_counter()
        rollouts = Rollouts(
            output["prompt_ids"], output["prompt_mask"], output["completion_ids"], output["completion_mask"]
        )
        values = self._episode_judge(
            self.accelerator.unwrap_model(self.model), rollouts, golds, lambda own: reduce(own, "sum"), self._seen
        )
        index_BT, settings = values.episodes.index_BT, self._dense
        success_BK1, cost_BK, count_B = (
            gather(v) for v in (values.success_BK1, values.cost_BK, values.episodes.count_B)
        )
        gain_BK = gains(success_BK1)
        if settings.charge == "tokens":
            cost_BK = self._alpha * scaled(cost_BK, self.num_generations)
        else:
            cost_BK = scaled(cost_BK, len(cost_BK))
        dense_BK = gain_BK - settings.compression_weight * cost_BK
        weights = {"group_size": self.num_generations, "progress_weight": settings.progress_weight}
        if settings.credit == "episode":
            credit_BK = episode_credit(self._rewards, dense_BK, count_B, **weights)[own]
            advantages_BT = credit_BK.gather(1, index_BT.clamp(min=0)) * output["completion_mask"]
        elif settings.credit == "counterfactual":
            worth_BK1 = success_BK1 * (1 - self._outcome_alpha / 2)  # what a rollout of its group's mean length gets
            credit_BK1 = counterfactual_credit(self._rewards, worth_BK1, dense_BK, count_B, **weights)[own]
            at_BT = index_BT + values.episodes.stopped_BT
            advantages_BT = credit_BK1.gather(1, at_BT.clamp(min=0)) * output["completion_mask"]
        else:
            with torch.no_grad():
                logp_BT, *_ = self._get_per_token_logps_and_entropies(
                    self.model,
                    rollouts.ids_BS,
                    rollouts.mask_BS,
                    index_BT.size(1),
                    batch_size=self.args.per_device_train_batch_size,
                )
            token = token_rewards(self._rewards[own], dense_BK[own], logp_BT, index_BT, settings.progress_weight)
            found = paper_credit(token, gather(token.mean_B), self.num_generations, own)
            advantages_BT = found.advantage_BT
            shares = torch.tensor([found.floored_share, found.clipped_share], device=self.accelerator.device)
            floored, clipped = reduce(shares, "mean").tolist()
            self._log({"credit/floored": floored, "credit/clipped": clipped})
        self._log(described(gain_BK, cost_BK, count_B))
        if self.accelerator.is_main_process:
            note_episodes(self._notes, self.state.global_step + 1, gain_BK, cost_BK, count_B)
        self._log({"reward/seconds": time.perf_counter() - began})  # of TRL's `step_time`
        return advantages_BT

    def _bound_temperatures(self) -> list[Any]:
        """The cells with the temperature at which TRL scores tokens, of the trained model and of a reference to it.

        TRL binds it into what it puts in the place of their forward when the trainer is built.
        """
        trained = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        cells: list[Any] = []
        for model in [trained] if self.ref_model is None else [trained, self.ref_model]:
            bare = self.accelerator.unwrap_model(model)
            forward = getattr(bare, "_original_forward", bare.forward).__func__  # where accelerate has wrapped it
            cells.append(forward.__closure__[forward.__code__.co_freevars.index("temperature")])
        return cells

    def _log(self, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self._metrics["train"][name].append(value)

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
    if not hasattr(model, "merge_adapter"):  # all of it is trained
        yield
        return
    with _unchanged(model):
        model.merge_adapter()
        try:
            yield
        finally:
            model.unmerge_adapter()


@contextmanager
def _unchanged(model: Any) -> Iterator[None]:
    """What is not trained is afterwards to the bit what it was."""
    frozen = [p for p in model.parameters() if not p.requires_grad]
    before = [p.detach().clone() for p in frozen]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(frozen, before, strict=True):
                parameter.copy_(value)


def described(gain_BK: Tensor, cost_BK: Tensor, count_B: Tensor) -> dict[str, float]:
    """What the dense reward's parts were in a batch: by episode, and whether what costs much gains much."""
    there_BK = torch.arange(gain_BK.size(1), device=gain_BK.device) < count_B[:, None]
    figures = {
        f"gain/episode_{k + 1}": gain_BK[there_BK[:, k], k].mean().item()
        for k in range(min(6, gain_BK.size(1)))
        if there_BK[:, k].any()
    }
    gain, cost = gain_BK[there_BK].double(), cost_BK[there_BK].double()
    figures["gain/rollout"] = gain_BK.sum(1).mean().item()
    if cost.any():
        figures["compression/largest"] = cost.max().item()
        figures["compression/correlation_with_gain"] = (
            torch.corrcoef(torch.stack([gain, cost]))[0, 1].nan_to_num().item()
        )
    return figures


def note_episodes(path: Path, step: int, gain_BK: Tensor, cost_BK: Tensor, count_B: Tensor) -> None:
    """Append one step's episodes, up to `NOTED`, for the report's pictures."""
    there_BK = torch.arange(gain_BK.size(1), device=gain_BK.device) < count_B[:, None]
    rows, episodes = (each[:NOTED] for each in there_BK.nonzero(as_tuple=True))
    row = {
        "step": step,
        "episode": (episodes + 1).tolist(),
        "gain": [round(value, 4) for value in gain_BK[rows, episodes].tolist()],
        "compression": [round(value, 4) for value in cost_BK[rows, episodes].tolist()],
    }
    with path.open("a") as stream:
        stream.write(json.dumps(row) + "\n")


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
    prompts: Sequence[Question],
    *,
    alpha: float,
    seed: int,
    work: Path,
) -> FamilyTrainer:
    """Train one checkpoint at efficiency level `alpha`, or go on where `work` stands; returns the trainer with it.

    Raises:
        StageError: the rollouts of a step do not divide over the processes, or there is no GPU for vLLM.
    """
    settings = arguments(stage, alpha, seed, work)
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": p.prompt}], "gold": p.answer} for p in prompts])
    trainer = FamilyTrainer(
        alpha=alpha,
        dense=stage.dense_reward,
        last_temperature=stage.last_temperature,
        notes=work.parent / "episodes.jsonl",
        model=model,
        args=settings,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=adapter(stage),
        callbacks=[MarkComplete(), JsonLines(work.parent / "metrics.jsonl", notes=work.parent / "episodes.jsonl")],
    )
    show_in_bar(trainer)
    trainer.train(resume_from_checkpoint=last_checkpoint(work))
    return trainer


def adapter(stage: FamilyStage) -> LoraConfig | None:
    """What is trained beside the frozen base; None where the whole model is."""
    if stage.tune == "full":
        return None
    return LoraConfig(
        r=stage.lora_rank, lora_alpha=2 * stage.lora_rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def arguments(stage: FamilyStage, alpha: float, seed: int, work: Path) -> GRPOConfig:
    """TRL's settings of one training.

    Raises:
        StageError: the rollouts of a step do not divide over the processes, or there is no GPU for vLLM.
    """
    count = processes().num_processes
    rollouts, rest = divmod(stage.prompts_per_step * stage.rollouts, count)
    if rest:
        raise StageError(
            f"family: {stage.prompts_per_step} prompts_per_step x {stage.rollouts} rollouts do not divide"
            f" over {count} processes"
        )
    if stage.engine == "vllm" and not torch.cuda.is_available():
        raise StageError("family.engine: vllm samples rollouts on a GPU, and there is none; transformers needs none")
    micro = max(size for size in range(1, stage.micro_batch + 1) if rollouts % size == 0)
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
        use_vllm=stage.engine == "vllm",
        vllm_mode="colocate",
        vllm_max_model_length=stage.max_tokens + LONGEST_PROMPT,
        vllm_importance_sampling_mode="token_truncate",
        shuffle_dataset=False,
        logging_steps=1,
        save_steps=stage.save_every,
        save_total_limit=2,
        report_to=["tensorboard"],
        dataloader_pin_memory=False,
        seed=seed,
    )
