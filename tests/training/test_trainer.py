import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.training.conftest import TINY
from training import trainer
from training.base import train
from training.config import DenseReward, FamilyStage
from training.job import resume, trl_settings
from training.recipe_dense import Forks
from training.rewards.credit import outcome_advantages
from training.rewards.outcome import outcome_reward
from training.rollouts import drawer
from training.rollouts.merge import merged
from training.rollouts.params import SamplingParams
from training.tasks.prompts import prompts

STAGE = FamilyStage(steps=2, prompts_per_step=2, rollouts=4, max_tokens=12, lora_rank=2, save_every=1)


@pytest.fixture
def rollouts(monkeypatch):
    """Scripted random rollouts, about half of them correct, so that there is something to learn."""

    def generate(self: trainer.CheckpointTrainer, prompt_ids: list[list[int]], *_: object, **__: object) -> tuple:
        completions = []
        with merged(self.accelerator.unwrap_model(self.model)):
            for _prompt in prompt_ids:
                thought = "7" * int(torch.randint(1, 8, ()))
                answer = self.train_dataset[0]["gold"] if torch.rand(()) < 0.5 else "none"
                completions.append(self.processing_class.encode(f"{thought}</think>The answer is {answer}.<|im_end|>"))
        return completions, None

    monkeypatch.setattr(trainer.CheckpointTrainer, "_generate_single_turn", generate)


def one_prompt(count: int) -> list:
    return prompts("train", 0, 1) * count


def weights(trained: trainer.CheckpointTrainer, of_adapter: bool) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in trained.model.named_parameters() if ("lora_" in n) == of_adapter}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, right[name]) for name, value in left.items())


def test_training_changes_only_the_adapter_and_logs_every_step(model, tokenizer, rollouts, tmp_path):
    before = {f"base_model.model.{name}": value.detach().clone() for name, value in model.named_parameters()}
    work = tmp_path / "work"
    trained = trainer.train(model, tokenizer, STAGE, one_prompt(4), alpha=0.1, seed=0, work=work)
    assert all(weights(trained, True)[n].abs().max() > 0 for n in weights(trained, True) if "lora_B" in n)
    after = {name.replace("base_layer.", ""): value for name, value in weights(trained, False).items()}
    assert same(after, before), "sampling with a merged adapter leaves the base unchanged to the bit"
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "rollout/accuracy" in line] == [1, 2]
    assert {p.name for p in work.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}
    assert list(work.rglob("events.out.tfevents.*"))


@pytest.mark.parametrize("annealing", [(None, [1.5, 1.5, 1.5]), (0.5, [1.5, 1.0, 0.5])])
def test_the_temperature_is_annealed_linearly_and_the_loss_scores_them_at_the_same_temperature(
    model, tokenizer, tmp_path, monkeypatch, annealing
):
    last, expected = annealing
    sampled: list[float] = []
    scored: list[tuple[torch.Tensor, torch.Tensor]] = []

    def generate(_model: object, prompts: list, params: SamplingParams, **_: object) -> list[list[int]]:
        sampled.append(params.temperature)
        return [tokenizer.encode(f"{'7' * (i + 1)}</think>The answer is 7.<|im_end|>") for i in range(len(prompts))]

    loss = trainer.CheckpointTrainer._compute_loss

    def watched(self: trainer.CheckpointTrainer, at_work: torch.nn.Module, inputs: dict) -> torch.Tensor:
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        length = inputs["completion_ids"].size(1)
        with torch.no_grad():
            own, *_ = self._get_per_token_logps_and_entropies(at_work, ids, mask, length)
            logits = at_work(input_ids=ids, attention_mask=mask).logits[:, -length - 1 : -1]
        by_hand = torch.log_softmax(logits / expected[len(sampled) - 1], -1).gather(2, ids[:, -length:, None])[..., 0]
        mask = inputs["completion_mask"].bool()
        scored.append((own[mask], by_hand[mask]))
        return loss(self, at_work, inputs)

    monkeypatch.setattr(drawer, "sample", generate)
    monkeypatch.setattr(trainer.CheckpointTrainer, "_compute_loss", watched)
    stage = STAGE.model_copy(update={"steps": 3, "temperature": 1.5, "last_temperature": last})
    trainer.train(model, tokenizer, stage, one_prompt(6), alpha=0.1, seed=0, work=tmp_path / "work")
    assert sampled == pytest.approx(expected)
    assert len(scored) == len(expected)
    for own, by_hand in scored:
        torch.testing.assert_close(own, by_hand, atol=1e-4, rtol=1e-4)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["rollout/temperature"] for line in lines if "rollout/temperature" in line] == pytest.approx(expected)


@pytest.mark.parametrize("dense", [None, DenseReward(scale="running", score="rao", proxy_rank=2)])
def test_interrupted_training_resumes_as_if_it_had_not_been_interrupted(
    tokenizer, rollouts, tmp_path, monkeypatch, dense
):
    """With a running scale, what earlier steps left in it is part of what a checkpoint holds."""
    stage = STAGE.model_copy(update={"steps": 4, **({"reward": "l2t", "dense": dense} if dense else {})})

    def trained(work: Path) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = train.new_model(TINY, tokenizer).eval()
        return weights(trainer.train(model, tokenizer, stage, one_prompt(8), alpha=0.1, seed=0, work=work), True)

    undisturbed = trained(tmp_path / "undisturbed" / "work")
    with monkeypatch.context() as patched:
        step = trainer.CheckpointTrainer.training_step

        def interrupt(self: trainer.CheckpointTrainer, *args: object, **more: object) -> torch.Tensor:
            if self.state.global_step == 2:
                raise KeyboardInterrupt
            return step(self, *args, **more)

        patched.setattr(trainer.CheckpointTrainer, "training_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "killed" / "work")
    last = resume.last_checkpoint(tmp_path / "killed" / "work")
    assert last == str(tmp_path / "killed" / "work" / "checkpoint-2"), "complete, with what the trainer adds to it"
    torch.manual_seed(99)
    assert same(trained(tmp_path / "killed" / "work"), undisturbed)
    assert len((tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()) == len(
        (tmp_path / "undisturbed" / "metrics.jsonl").read_text().splitlines()
    )


def test_a_dense_step_logs_the_parts_of_its_reward_and_its_episodes(model, tokenizer, rollouts, tmp_path):
    """With several micro-batches: the reward's own backward pass must leave no graph for the update's."""
    stage = STAGE.model_copy(update={"reward": "l2t", "dense": DenseReward(proxy_rank=2), "micro_batch": 2})
    trainer.train(model, tokenizer, stage, one_prompt(4), alpha=0.1, seed=0, work=tmp_path / "work")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "rollout/accuracy" in line]
    for name in ("gain/episode_1", "gain/rollout", "compression/largest", "compression/correlation_with_gain"):
        assert all(name in line for line in steps)
    assert all(0 < line["reward/seconds"] < line["step_time"] for line in steps)
    notes = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    assert [note["step"] for note in notes] == [1, 2]
    assert all(len(note["gain"]) == len(note["compression"]) == len(note["episode"]) == 8 for note in notes)


def test_a_running_scale_is_the_mean_of_the_steps_so_far(model, tokenizer, rollouts, tmp_path, monkeypatch):
    """By hand: the weights of the steps are 1, 0.9, 0.81 from the newest, divided by their sum."""
    means: list[float] = []

    def noted(cost_BK: torch.Tensor) -> float:
        means.append(cost_BK.double().sum(1).mean().item())
        return means[-1]

    monkeypatch.setattr(trainer.charge, "mean_rollout", noted)
    dense = DenseReward(scale="running", proxy_rank=2)
    stage = STAGE.model_copy(update={"reward": "l2t", "dense": dense, "steps": 3, "micro_batch": 2})
    trainer.train(model, tokenizer, stage, one_prompt(6), alpha=0.1, seed=0, work=tmp_path / "work")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logged = [line["compression/scale"] for line in lines if "compression/scale" in line]
    a, b, c = means
    assert logged == pytest.approx([a, (b + 0.9 * a) / 1.9, (c + 0.9 * b + 0.81 * a) / 2.71])
    assert len(set(means)) == 3


def test_full_fine_tuning_changes_the_whole_model(model, tokenizer, rollouts, tmp_path):
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    stage = STAGE.model_copy(update={"tune": "full"})
    trained = trainer.train(model, tokenizer, stage, one_prompt(4), alpha=0.1, seed=0, work=tmp_path / "work")
    assert not hasattr(trained.model, "merge_adapter")
    changed = [not torch.equal(value, before[name]) for name, value in trained.model.named_parameters()]
    assert sum(changed) > len(changed) / 2


def log_of(model, tokenizer, directory: Path, **changes: object) -> list[dict[str, float]]:
    """The metrics of a training of four steps, line by line."""
    stage = STAGE.model_copy(update={"steps": 4, "warmup": 0.25, **changes})
    trainer.train(model, tokenizer, stage, one_prompt(8), alpha=0.1, seed=0, work=directory / "work")
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "rollout/accuracy" in line]


def test_the_learning_rate_warms_up_and_then_stays_or_falls_as_a_cosine(model, tokenizer, rollouts, tmp_path):
    rates = [line["learning_rate"] for line in log_of(model, tokenizer, tmp_path, lr=1e-3)]
    assert rates == pytest.approx([0, 1e-3, 1e-3, 1e-3])
    cosine = trl_settings.grpo_config(STAGE.model_copy(update={"schedule": "cosine"}), 0.1, 0, tmp_path)
    assert cosine.lr_scheduler_type == "cosine"


def test_with_a_kl_weight_the_divergence_from_the_base_is_measured_and_a_cosine_rate_falls(
    model, tokenizer, rollouts, tmp_path
):
    """One training for both, to save time."""
    lines = log_of(model, tokenizer, tmp_path, kl=0.5, schedule="cosine", lr=1e-3)
    assert lines[0]["kl"] == pytest.approx(0, abs=1e-6), "the adapter starts at zero"
    assert lines[-1]["kl"] > 1e-6
    assert [line["learning_rate"] for line in lines] == pytest.approx([0, 1e-3, 0.75e-3, 0.25e-3])


@pytest.mark.usefixtures("rollouts")
@pytest.mark.parametrize("case", [("token_sum", 3), ("sequence_mean", 1)])
def test_a_token_sum_weighs_a_rollout_by_its_length_and_a_sequence_mean_does_not(
    model, tokenizer, tmp_path, monkeypatch, case
):
    """One rollout has an advantage, and 4 tokens or 12: how much larger is the loss of the longer one?"""
    loss, longer_weighs = case
    trained: list[tuple[trainer.CheckpointTrainer, torch.nn.Module]] = []

    def watched(self: trainer.CheckpointTrainer, at_work: torch.nn.Module, inputs: dict) -> torch.Tensor:
        trained.append((self, at_work))
        return compute_loss(self, at_work, inputs)

    compute_loss = trainer.CheckpointTrainer._compute_loss
    monkeypatch.setattr(trainer.CheckpointTrainer, "_compute_loss", watched)
    stage = STAGE.model_copy(update={"steps": 1, "loss": loss})
    trainer.train(model, tokenizer, stage, one_prompt(2), alpha=0.1, seed=0, work=tmp_path / "work")
    losses = []
    for length in (4, 12):
        mask = torch.zeros(2, 12, dtype=torch.long)
        mask[0, :length] = mask[1, :1] = 1
        inputs = {
            "prompt_ids": torch.full((2, 3), 7),
            "prompt_mask": torch.ones(2, 3, dtype=torch.long),
            "completion_ids": torch.full((2, 12), 9),
            "completion_mask": mask,
            "advantages": torch.tensor([[1.0], [0.0]]) * mask,
            "num_items_in_batch": mask.sum(),
        }
        losses.append(compute_loss(*trained[0], inputs).item())
    assert losses[1] / losses[0] == pytest.approx(longer_weighs, rel=1e-4)


def test_vllm_samples_and_the_loss_scores_at_the_temperature_of_the_step():
    cell = SimpleNamespace(cell_contents=1.5)
    logged: dict[str, float] = {}
    annealing = SimpleNamespace(
        state=SimpleNamespace(global_step=1, max_steps=3),
        _first_temperature=1.5,
        _final_temperature=0.5,
        _temperature_cells=[cell],
        use_vllm=True,
        _engine=None,
        vllm_generation=SimpleNamespace(temperature=1.5),
        _log=logged.update,
    )
    trainer.CheckpointTrainer._anneal_temperature(annealing)
    assert annealing.temperature == cell.cell_contents == annealing.vllm_generation.temperature == 1.0
    assert logged == {"rollout/temperature": 1.0}


def test_alpha_zero_and_alpha_differ_only_in_the_reward(tokenizer, rollouts, tmp_path):
    """The same seed gives the same rollouts in the first step: same accuracy and length, less reward with alpha."""
    logs = []
    for alpha in (0.0, 0.4):
        torch.manual_seed(0)
        out = tmp_path / f"{alpha}"
        trainer.train(
            train.new_model(TINY, tokenizer), tokenizer, STAGE, one_prompt(4), alpha=alpha, seed=0, work=out / "work"
        )
        logs.append(json.loads((out / "metrics.jsonl").read_text().splitlines()[0]))
    for figure in ("rollout/reasoning_tokens", "rollout/accuracy"):
        assert logs[0][figure] == logs[1][figure]
    assert logs[0]["reward"] == pytest.approx(logs[0]["rollout/accuracy"])
    assert 0 < logs[1]["reward"] < logs[0]["reward"]


def test_a_recipe_s_rule_window_and_normalisation_reach_the_step(model, tokenizer, rollouts, tmp_path, monkeypatch):
    """What each step is asked to compute, and that the penalty is in the reward that is logged."""
    asked = []

    def recorded(rule, correct, tokens, **settings):
        asked.append((rule, settings["alpha"], settings["max_tokens"], settings["group_size"]))
        return outcome_reward(rule, correct, tokens, **settings)

    def advantages(*args, normalise, **kwargs):
        asked.append(normalise)
        return outcome_advantages(*args, normalise=normalise, **kwargs)

    monkeypatch.setattr(trainer, "outcome_reward", recorded)
    monkeypatch.setattr(trainer.credit, "outcome_advantages", advantages)
    stage = STAGE.model_copy(
        update={"reward": "solve_rate", "normalise_advantages": True, "overlong_window": 12, "steps": 1}
    )
    trainer.train(model, tokenizer, stage, one_prompt(2), alpha=0.4, seed=0, work=tmp_path / "work")
    assert asked == [("solve_rate", 0.4, 12, 4), True]
    logged = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert logged["reward"] < logged["rollout/accuracy"] - 0.4 / 12 / 4 - 1 / 12


def test_a_fork_changes_what_its_own_decisions_are_worth_and_not_what_came_before(
    model, tokenizer, tmp_path, monkeypatch
):
    """Every rollout stops and is wrong; those that think on end right. Half are forked."""
    gold, seen = one_prompt(1)[0].answer, {}

    def written(_model, prompts, *_, surprisals, **__):
        thought_on = len(prompts) < STAGE.prompts_per_step * STAGE.rollouts
        text = (
            f"8</think>\n\nThe answer is {gold}.<|im_end|>" if thought_on else "7</think>\n\nThe answer is 0.<|im_end|>"
        )
        ids = tokenizer.encode(text)
        surprisals += [[1.0] * len(ids) for _ in prompts]
        return [list(ids) for _ in prompts]

    credited, loss = trainer.credit.counterfactual_advantages, trainer.CheckpointTrainer._compute_loss

    def counterfactual(outcome, *rest, **more):
        seen["outcome"] = outcome
        return credited(outcome, *rest, **more)

    def watched(self, of, inputs):
        seen["advantages"], seen["ids"] = inputs["advantages"], inputs["completion_ids"]
        return loss(self, of, inputs)

    monkeypatch.setattr(drawer, "sample", written)
    monkeypatch.setattr(drawer, "caches_everything", lambda _: False)
    monkeypatch.setattr(trainer.credit, "counterfactual_advantages", counterfactual)
    monkeypatch.setattr(trainer.decisions, "decision_advantages", lambda worth, _: torch.full_like(worth, 7.0))
    monkeypatch.setattr(trainer.CheckpointTrainer, "_compute_loss", watched)
    dense = DenseReward(credit="counterfactual", charge="tokens", forks=Forks(share=0.5, decision_weight=3))
    stage = STAGE.model_copy(update={"reward": "l2t", "dense": dense, "steps": 1, "max_tokens": 60})
    trainer.train(model, tokenizer, stage, one_prompt(2), alpha=0.1, seed=0, work=tmp_path / "work")

    forked = seen["outcome"][:, 1] == 1
    assert forked.sum() == 4
    assert seen["outcome"][:, 0].tolist() == [0] * 8, "the first pass was wrong, whatever a fork made of it"
    assert set(seen["outcome"][~forked].flatten().tolist()) == {0}
    blank = tokenizer.encode("\n\n")[0]
    end = tokenizer.convert_tokens_to_ids("</think>")
    opening = (seen["ids"] == blank) & ((seen["ids"] == end).cumsum(1) == 0)
    assert opening.sum() == 4
    assert set(seen["advantages"][opening].tolist()) == {21.0}
    assert 21.0 not in seen["advantages"][~opening].tolist()
    (step,) = [
        line for line in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines()) if "fork/share" in line
    ]
    assert (step["fork/share"], step["rollout/accuracy"]) == (0.5, 0.0)
