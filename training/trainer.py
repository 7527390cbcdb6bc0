"""How is one efficient checkpoint trained? With TRL's `GRPOTrainer`, a price of length and, optionally, a dense reward.

Differences from stock GRPO, and their reasons:
- The reward needs the lengths of the whole group, and a group may span processes. So it is computed after the gather.
- Advantages are leave-one-out and not divided by a standard deviation, except in the paper's own dense credit. They
  are (B, T), one per token, so that credit can differ between the episodes of a rollout.
- The loss is a token sum over a constant (`dr_grpo`). A mean per sequence would shorten answers even at alpha 0.
- Rollouts come from `training.rollouts.sample` or from vLLM: in this process on a GPU (TRL's), and on CPUs from a
  server of our own (`training.rollouts.engine`). Micro-batches are sorted by length and trimmed.

There is one update per generation, so rollouts are on-policy and there is no ratio to clip. With vLLM, each token's
loss is weighted by the ratio of the trained model's probability to vLLM's, at most 3 (TRL's correction).
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather, reduce
from datasets import Dataset
from peft import PeftModel
from rich.console import Console
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

with warnings.catch_warnings():
    # On import TRL warns that its vLLM client was not tested with the installed vLLM. We do not use that client.
    warnings.filterwarnings("ignore", message="TRL currently supports vLLM", category=UserWarning)
    from trl import GRPOTrainer

from training.config import DenseReward, FamilyStage, OutcomeRule
from training.errors import StageError
from training.job import trl_guard
from training.job.metrics import JsonLines, show_in_bar
from training.job.resume import KeepNumbers, MarkComplete, kept_numbers, last_checkpoint
from training.job.trl_settings import adapter, grpo_config
from training.recipe_dense import Forks
from training.rewards import charge, credit, decisions, episode_log
from training.rewards.dense import EpisodeGrader, EpisodeValues
from training.rewards.information_gain import information_gains
from training.rewards.outcome import outcome_reward, overlong_penalty
from training.rollouts import engine as engines
from training.rollouts.alike import Alike
from training.rollouts.batch import Rollouts, sorted_by_length
from training.rollouts.drawer import Drawer, Drawn
from training.rollouts.grade import Grader
from training.rollouts.merge import frozen_weights_restored
from training.tasks.question import Question

_console = Console(stderr=True, soft_wrap=True)
VERSION = 2
"""Bump when training semantics change; checkpoints of other versions are not reused."""


class CheckpointTrainer(GRPOTrainer):
    """A_i = r_i - mean of the others' r, with r = 1{correct} (1 - alpha f(length)) (arXiv 2502.04463).

    `rule` chooses another r (`training/rewards/outcome.py`). With `dense`, each episode of thinking has an advantage of
    its own in addition (arXiv 2505.10425).

    Raises:
        StageError: the installed TRL lacks something that this class overrides or reaches into.
    """

    def __init__(
        self,
        *,
        alpha: float,
        rule: OutcomeRule = "alpha",
        normalise: bool = False,
        overlong_window: int = 0,
        dense: DenseReward | None,
        final_temperature: float | None,
        episode_log_path: Path,
        engine: engines.Engine | None = None,
        **kwargs: Any,
    ) -> None:
        trl_guard.require_methods(GRPOTrainer)
        super().__init__(reward_funcs=[alpha_reward], **kwargs)
        trl_guard.require_attributes(self)
        self._engine = engine
        if engine is not None:
            self.use_vllm = True  # makes TRL weigh tokens by the ratio to the probabilities that the engine reports
        self._first_temperature = self.args.temperature
        self._final_temperature = final_temperature or self._first_temperature
        self._alpha, self._dense, self._episode_log_path = alpha, dense, episode_log_path
        self._outcome_alpha = 0.0 if dense and dense.charge == "tokens" else alpha  # or length would be charged twice
        self._rule: OutcomeRule = rule
        self._normalise, self._overlong_window = normalise, overlong_window
        self._grader = Grader(self.processing_class, dense)
        self._episode_grader = EpisodeGrader(self.processing_class, dense) if dense else None
        self.charge_scale = charge.RunningMean()
        self._alike = Alike(self.args.max_steps)
        self._forks = dense.forks if dense else None
        if self._forks is not None and self.use_vllm and engine is None:
            raise StageError("family.dense.forks: not with engine: vllm on a GPU; set engine: transformers")
        self._draw = Drawer(
            self.processing_class,
            self.args.max_completion_length,
            engine=engine,
            forks=self._forks,
            split=self._episode_grader.split if self._episode_grader else None,
            keeps_caches=dense is not None and not dense.charges_information,
            log=self._log,
        )
        self._drawn: Drawn | None = None
        self._before_fork_B = torch.empty(0)
        self._rewards = self._correct = self._last_outcomes = torch.empty(0)
        is_annealed = self._final_temperature != self._first_temperature
        self._temperature_cells = self._bound_temperatures() if is_annealed else []

    def _generate_single_turn(self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """One completion per prompt; TRL has repeated each prompt for its group. The adapter is merged meanwhile."""
        model = self.accelerator.unwrap_model(self.model)
        if self.use_vllm and self._engine is None:
            with frozen_weights_restored(model):  # TRL merges the adapter to hand the weights over, then subtracts it
                return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        drawn = self._drawn = self._draw(model, prompt_ids, self.temperature, self.num_generations)
        self._before_fork_B = torch.tensor(drawn.before_fork, device=model.device)
        logprobs = None if self._engine is None else [completion.logprobs for completion in drawn.completions]
        return [completion.ids for completion in drawn.completions], logprobs

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: Any, completions: Any, completion_ids_list: list[list[int]]
    ) -> Tensor:
        """Rewards of all processes' rollouts, (B * processes, 1)."""
        golds = [row["gold"] for row in inputs]
        natural = self._drawn.natural if self._drawn and self._forks else completion_ids_list
        outcomes = list(map(self._grader, natural, golds))
        last = outcomes if natural is completion_ids_list else list(map(self._grader, completion_ids_list, golds))
        local = [
            [o.correct, o.tokens, o.reasoning_tokens, o.episodes, o.finished, end.correct]
            for o, end in zip(outcomes, last, strict=True)
        ]
        table = gather(torch.tensor(local, dtype=torch.float32, device=self.accelerator.device))
        correct, tokens, reasoning, episode_count, finished, self._last_outcomes = table.unbind(1)
        self._rewards, self._correct = self._outcome_rewards(correct, tokens), correct
        measured = {"accuracy": correct, "reasoning_tokens": reasoning, "episodes": episode_count, "finished": finished}
        self._log({f"rollout/{name}": values.mean().item() for name, values in measured.items()})
        example = self._grader.explained(natural[0], golds[0])
        closed = finished.bool() & (reasoning < tokens)
        said = self._alike.after(self.state.global_step + 1, correct, finished, closed, example=example)
        if said and self.accelerator.is_main_process:
            _console.print(f"family: {said}", markup=False, highlight=False)
        return self._rewards[:, None]

    def _outcome_rewards(self, correct_B: Tensor, tokens_B: Tensor) -> Tensor:
        longest = self.args.max_completion_length
        reward_B = outcome_reward(
            self._rule,
            correct_B,
            tokens_B,
            group_size=self.num_generations,
            alpha=self._outcome_alpha,
            max_tokens=longest,
        )
        if not self._overlong_window:
            return reward_B
        return reward_B + overlong_penalty(tokens_B, max_tokens=longest, window=self._overlong_window)

    def _anneal_temperature(self) -> None:
        """Set this step's temperature, for sampling and for the log-probabilities in the loss."""
        progress = self.state.global_step / max(1, self.state.max_steps - 1)
        self.temperature = self._first_temperature + progress * (self._final_temperature - self._first_temperature)
        for cell in self._temperature_cells:
            cell.cell_contents = self.temperature
        if self.use_vllm and self._engine is None:
            self.vllm_generation.temperature = self.temperature
        self._log({"rollout/temperature": self.temperature})

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's batch of rollouts with our advantages, (B, T)."""
        self._anneal_temperature()
        output = super()._generate_and_score_completions(inputs)
        trl_guard.require_correction(self, output)
        own = slice(self.accelerator.process_index * len(inputs), (self.accelerator.process_index + 1) * len(inputs))
        if self._episode_grader is None:
            output["advantages"] = credit.outcome_advantages(
                self._rewards,
                output["completion_mask"],
                own=own,
                group_size=self.num_generations,
                normalise=self._normalise,
            )
        else:
            output["advantages"] = self._dense_advantages(output, [row["gold"] for row in inputs], own)
        return output

    def _dense_advantages(self, output: dict[str, Any], golds: list[str], own: slice) -> Tensor:
        """Measure the episodes, log them, and assign credit: one advantage per token of this process, (B, T)."""
        assert self._dense
        assert self._episode_grader
        start = time.perf_counter()
        rollouts = Rollouts(
            output["prompt_ids"], output["prompt_mask"], output["completion_ids"], output["completion_mask"]
        )
        model = self.accelerator.unwrap_model(self.model)
        caches = self._drawn.kv_caches if self._drawn else None
        values = self._episode_grader(model, rollouts, golds, lambda local: reduce(local, "sum"), caches)
        success_BK1, cost_BK, count_B = (
            gather(each) for each in (values.success_BK1, values.cost_BK, values.episodes.count_B)
        )
        gain_BK = information_gains(success_BK1)
        dense_BK, cost_BK = self._dense_rewards(gain_BK, cost_BK, success_BK1, count_B)
        if self._dense.credit == "paper":
            advantages_BT = self._paper_advantages(rollouts, dense_BK[own], values.episodes.index_BT, own)
        else:
            advantages_BT = self._episode_advantages(values, success_BK1, dense_BK, count_B, own)
        if self._forks is not None:
            price_BK = self._dense.progress_weight * self._dense.compression_weight * cost_BK[own]
            advantages_BT = self._decide(self._forks, rollouts, values, price_BK, advantages_BT)
        self._log(episode_log.figures(gain_BK, cost_BK, count_B))
        if self.accelerator.is_main_process:
            episode_log.append(self._episode_log_path, self.state.global_step + 1, gain_BK, cost_BK, count_B)
        self._log({"reward/seconds": time.perf_counter() - start})  # a part of TRL's `step_time`
        return advantages_BT

    def _dense_rewards(
        self, gain_BK: Tensor, cost_BK: Tensor, success_BK1: Tensor, count_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The episodes' rewards and costs, of all processes. Moves the running scale on by this step."""
        assert self._dense
        scale = None
        if self._dense.winsorise is not None:
            cost_BK = charge.winsorised(cost_BK, count_B, self._dense.winsorise)
        if self._dense.scale == "running":
            self.charge_scale = self.charge_scale.after(charge.mean_rollout(cost_BK))
            scale = self.charge_scale.value
            self._log({"compression/scale": scale})
        return credit.dense_rewards(
            gain_BK,
            cost_BK,
            charge=self._dense.charge,
            compression_weight=self._dense.compression_weight,
            alpha=self._alpha,
            group_size=self.num_generations,
            own_BK=decisions.before_fork(gather(self._before_fork_B), gain_BK.size(1)) if self._forks else None,
            scale=scale,
            price=charge.prices(self._dense.redundancy, success_BK1, self._correct, self.num_generations),
        )

    def _episode_advantages(
        self, values: EpisodeValues, success_BK1: Tensor, dense_BK: Tensor, count_B: Tensor, own: slice
    ) -> Tensor:
        """The scheme `episode` or `counterfactual`."""
        assert self._dense
        settings: dict[str, Any] = {
            "own": own,
            "index_BT": values.episodes.index_BT,
            "group_size": self.num_generations,
            "progress_weight": self._dense.progress_weight,
        }
        if self._dense.credit == "episode":
            return credit.episode_advantages(self._rewards, dense_BK, count_B, **settings)
        outcome = self._rewards
        if self._forks is not None:
            before_BK1 = decisions.before_fork(gather(self._before_fork_B), success_BK1.size(1))
            outcome = torch.where(before_BK1, self._rewards[:, None], self._last_outcomes[:, None])
        return credit.counterfactual_advantages(
            outcome,
            success_BK1,
            dense_BK,
            count_B,
            stopped_BT=values.episodes.stopped_BT,
            **settings,
            outcome_alpha=self._outcome_alpha,
        )

    def _decide(
        self, settings: Forks, rollouts: Rollouts, values: EpisodeValues, price_BK: Tensor, advantages_BT: Tensor
    ) -> Tensor:
        """The same advantages but of the tokens that decided to think on: theirs are against stopping there."""
        index_BT = values.episodes.index_BT
        worth_BK = decisions.thinking_on(values.success_BK1, price_BK, values.episodes.count_B)
        opens_BT = decisions.opening_tokens(index_BT)
        worth_BT = worth_BK.gather(1, index_BT.clamp(min=0))
        logp_BT = self._token_logps(rollouts)
        self._log(decisions.figures(worth_BK, values.success_BK1, logp_BT, opens_BT, self._before_fork_B))
        decided_BT = settings.decision_weight * decisions.decision_advantages(worth_BT, logp_BT)
        return torch.where(opens_BT, decided_BT, advantages_BT)

    @torch.no_grad()
    def _token_logps(self, rollouts: Rollouts) -> Tensor:
        """log P of every completion token at the step's temperature, (B, T)."""
        logp_BT, *_ = self._get_per_token_logps_and_entropies(
            self.model,
            rollouts.ids_BS,
            rollouts.mask_BS,
            rollouts.completion_ids_BT.size(1),
            batch_size=self.args.per_device_train_batch_size,
        )
        return logp_BT

    def _paper_advantages(self, rollouts: Rollouts, own_dense_BK: Tensor, index_BT: Tensor, own: slice) -> Tensor:
        """The scheme `paper`, which needs log-probabilities. Logs how often the floor and the clip applied."""
        assert self._dense
        logp_BT = self._token_logps(rollouts)
        outcome_B, weight = self._rewards[own], self._dense.progress_weight
        token = credit.token_rewards(outcome_B, own_dense_BK, logp_BT, index_BT, weight)
        result = credit.paper_advantages(token, gather(token.mean_B), self.num_generations, own)
        shares = torch.tensor([result.floored_share, result.clipped_share], device=self.accelerator.device)
        floored, clipped = reduce(shares, "mean").tolist()
        self._log({"credit/floored": floored, "credit/clipped": clipped})
        return result.advantage_BT

    def _bound_temperatures(self) -> list[Any]:
        """The closure cells that hold the temperature TRL scores tokens at, for the model and for its reference."""
        trained = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        models = [trained] if self.ref_model is None else [trained, self.ref_model]
        return [trl_guard.temperature_cell(self.accelerator.unwrap_model(model)) for model in models]

    def _log(self, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self._metrics["train"][name].append(value)

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """TRL's micro-batch, sorted by length to save padding. One update takes all of them, so the order is free."""
        previous = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if self._buffered_inputs is previous:
            return inputs
        self._buffered_inputs = sorted_by_length(self._buffered_inputs)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]


def alpha_reward(**_: Any) -> list[float]:
    """Names the reward in TRL's logs. It is never called: `CheckpointTrainer._calculate_rewards` replaces the call."""
    raise AssertionError("the reward is computed after the gather")


def train(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    stage: FamilyStage,
    prompts: Sequence[Question],
    *,
    alpha: float,
    seed: int,
    work: Path,
) -> CheckpointTrainer:
    """Train one checkpoint at efficiency level `alpha`, or resume from the last checkpoint in `work`.

    Args:
        model: a model, or one with an adapter that goes on training.
        tokenizer: its.
        stage: how to train.
        prompts: the questions, in their order.
        alpha: efficiency level.
        seed: of the draws.
        work: directory for checkpoints; the training's log is beside it.

    Returns:
        The trainer, which holds the trained model.

    Raises:
        StageError: a step's rollouts do not divide over the processes, vLLM does not start, or TRL has changed.
    """
    episode_log_path = work.parent / "episodes.jsonl"
    settings = grpo_config(stage, alpha, seed, work, positions=model.config.get_text_config().max_position_embeddings)
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": p.prompt}], "gold": p.answer} for p in prompts])
    keeps_scale = stage.dense_reward is not None and stage.dense_reward.scale == "running"
    with engines.for_stage(stage, model, work) as engine:
        trainer = CheckpointTrainer(
            alpha=alpha,
            rule=stage.outcome_rule,
            normalise=stage.normalise_advantages,
            overlong_window=stage.overlong_window,
            dense=stage.dense_reward,
            final_temperature=stage.last_temperature,
            episode_log_path=episode_log_path,
            engine=engine,
            model=model,
            args=settings,
            train_dataset=rows,
            processing_class=tokenizer,
            peft_config=adapter(stage, model),
            callbacks=[
                *([KeepNumbers(lambda: asdict(trainer.charge_scale))] if keeps_scale else []),
                MarkComplete(),
                JsonLines(work.parent / "metrics.jsonl", notes=episode_log_path),
            ],
        )
        show_in_bar(trainer)
        checkpoint = last_checkpoint(work)
        if keeps_scale and checkpoint:
            trainer.charge_scale = charge.RunningMean(**kept_numbers(checkpoint))
        trainer.train(resume_from_checkpoint=checkpoint)
    return trainer
