"""What does the dense reward cost? Ratios within one run: packed probes, the compression score, a training step.

    python -m benchmarks.dense_reward --out benchmarks/results

measures the shipped base on random thinking. It takes most of the nine minutes of `make bench` on two cores.

*Packed* is `training.rewards.information_gain` by itself; *after sampling* is the same as training runs it on a CPU,
on the KV cache that sampling left. The peer of both runs one forward pass per episode over growing prefixes, for all
rollouts of the batch at once. `tokens` is how many times as many tokens the peer computes as `packed`, which is what
packing can save where only computing counts. The compression score's peer runs one backward pass per episode through
the proxy's layer. Each ratio is the median over repeats of peer / ours, measured alternately. The step's peer is TRL's
own GRPOTrainer with the same prompts, rollouts, adapter and precision.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from torch import Tensor
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from benchmarks import plots
from training import config, trainer
from training.config import DenseReward, FamilyStage
from training.job import trl_settings
from training.job.allocator import keep_freed_memory
from training.rewards.compression import scores, token_gradients
from training.rewards.information_gain import Probe, answer_probabilities
from training.rollouts.batch import Rollouts
from training.rollouts.grade import Grader
from training.tasks.prompts import prompts

ROOT = Path(__file__).parents[1]
BASE = ROOT / "models" / "abacus" / "base"
RECIPE = ROOT / "training" / "recipes" / "abacus.yaml"
ALPHA = 0.2
EPISODES = (4, 8, 16, 30)
LENGTHS = (120, 240, 480, 960)
PROMPT, STOP, ANSWER = 24, 7, 4
"""Tokens of a typical prompt, stop and answer of the shipped family."""


def rollouts(rows: int, length: int, vocabulary: int) -> Rollouts:
    ids = torch.randint(5, vocabulary, (rows, PROMPT + length))
    ones = torch.ones_like(ids)
    return Rollouts(ids[:, :PROMPT], ones[:, :PROMPT], ids[:, PROMPT:], ones[:, PROMPT:])


@torch.no_grad()
def pass_per_episode(model: PreTrainedModel, batch: Rollouts, ends: list[int], probe: Probe) -> Tensor:
    """J_0 .. J_K by one forward pass per prefix, (B, K + 1)."""
    tail = torch.tensor([*probe.stop, *probe.answer]).expand(len(batch), -1)
    answer = torch.tensor(probe.answer)
    columns = []
    for end in (0, *ends):
        ids = torch.cat([batch.prompt_ids_BP, batch.completion_ids_BT[:, :end], tail], 1)
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=len(answer) + 1).logits[:, :-1].float()
        logp = torch.log_softmax(logits, -1).gather(2, answer.expand(len(batch), -1)[..., None]).squeeze(2)
        columns.append(logp.sum(1).exp())
    return torch.stack(columns, 1)


def backward_per_episode(model: PreTrainedModel, batch: Rollouts, index_BT: Tensor, rank: int) -> Tensor:
    """Proxy gradients of every episode by autograd, (B, K, r, r): one backward pass each, one forward per rollout."""
    decoder = model.get_decoder()
    layer: Any = decoder.layers[-1].mlp.down_proj
    left, _, right = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
    episodes = int(index_BT.max()) + 1
    gradients = torch.zeros(len(batch), episodes, rank, rank)
    for row in range(len(batch)):
        one = batch[row : row + 1]
        logits = model(input_ids=one.ids_BS, use_cache=False).logits[0, PROMPT - 1 : -1]
        logp = torch.log_softmax(logits.float(), -1).gather(1, one.completion_ids_BT[0][:, None]).squeeze(1)
        for k in range(episodes):
            (gradient,) = torch.autograd.grad(logp[index_BT[row] == k].sum(), layer.weight, retain_graph=True)
            gradients[row, k] = left[:, :rank].T @ gradient @ right[:rank].T
    return gradients


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def ratio(ours: Callable[[], object], peer: Callable[[], object], repeats: int) -> dict[str, float]:
    ours(), peer()
    pairs = [(timed(ours), timed(peer)) for _ in range(repeats)]
    ratios = [theirs / own for own, theirs in pairs]
    return {
        "ours_seconds": statistics.median(own for own, _ in pairs),
        "peer_seconds": statistics.median(theirs for _, theirs in pairs),
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
    }


def probing(model: PreTrainedModel, rows: int, repeats: int) -> list[dict[str, Any]]:
    probe = Probe(tuple(range(5, 5 + STOP)), tuple(range(5, 5 + ANSWER)))
    results = []
    for length, episodes in tqdm([(t, k) for t in LENGTHS for k in EPISODES], desc="packed probes"):
        batch = rollouts(rows, length, model.config.vocab_size)
        ends = [length * (k + 1) // episodes for k in range(episodes)]
        ends_BK = torch.tensor(ends).expand(rows, -1)
        peer = partial(pass_per_episode, model, batch, ends, probe)
        tail = STOP + ANSWER
        theirs, own = sum(PROMPT + end + tail for end in (0, *ends)), PROMPT + length + (episodes + 1) * tail
        row: dict[str, Any] = {
            "thinking_tokens": length,
            "episodes": episodes,
            "rollouts": rows,
            "tokens": theirs / own,
        }
        for name, kv_caches in (("packed", None), ("after sampling", kv_caches_of(model, batch))):
            ours = partial(answer_probabilities, model, batch, ends_BK, [probe] * rows, kv_caches=kv_caches)
            torch.testing.assert_close(ours(), peer(), atol=1e-5, rtol=1e-3)
            row[name] = ratio(ours, peer, repeats)
        results.append(row)
    return results


@torch.no_grad()
def kv_caches_of(model: PreTrainedModel, batch: Rollouts) -> list[Tensor]:
    """Each rollout's KV cache as `training.rollouts.sample.sample` returns it, (layers, 2, key heads, tokens, D)."""
    layers = model(input_ids=batch.ids_BS, use_cache=True).past_key_values.layers
    return [
        torch.stack([torch.stack([layer.keys[row], layer.values[row]]) for layer in layers])
        for row in range(len(batch))
    ]


def compression(model: PreTrainedModel, rows: int, repeats: int) -> list[dict[str, Any]]:
    results = []
    for episodes in tqdm(EPISODES, desc="compression"):
        batch = rollouts(rows, 240, model.config.vocab_size)
        index = (torch.arange(240) * episodes // 240).expand(rows, -1)

        def ours(batch: Rollouts = batch, index: Tensor = index, episodes: int = episodes) -> None:
            factors = token_gradients(model, batch)
            scores(factors.output_BTr, factors.input_BTr, index, episodes)

        measured = ratio(ours, lambda batch=batch, index=index: backward_per_episode(model, batch, index, 16), repeats)
        results.append({"thinking_tokens": 240, "episodes": episodes, "rollouts": rows, **measured})
    return results


def step_times(steps: int, out: Path, stage: FamilyStage) -> list[dict[str, float]]:
    """What our trainer logs of each step but the first, at the shipped family's size."""
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    questions = prompts("train", 1, steps * stage.prompts_per_step)
    trainer.train(model, AutoTokenizer.from_pretrained(BASE), stage, questions, alpha=ALPHA, seed=0, work=out / "work")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "step_time" in row][1:]


def stock_times(steps: int, out: Path, stage: FamilyStage) -> list[float]:
    """Seconds of TRL's own GRPO step with the same prompts, rollouts, adapter and precision, but the first."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    grade = Grader(tokenizer)

    def right(completion_ids: list[list[int]], gold: list[str], **_: Any) -> list[float]:
        return [float(grade(ids, answer).correct) for ids, answer in zip(completion_ids, gold, strict=True)]

    questions = prompts("train", 1, steps * stage.prompts_per_step)
    rows = [{"prompt": [{"role": "user", "content": p.prompt}], "gold": p.answer} for p in questions]
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    stock = trl.GRPOTrainer(
        model=model,
        reward_funcs=right,
        args=trl_settings.grpo_config(stage, ALPHA, 0, out / "stock"),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=trl_settings.adapter(stage, model),
    )
    stock.train()
    return [row["step_time"] for row in stock.state.log_history if "step_time" in row][1:]


def step(steps: int) -> dict[str, Any]:
    """A training step of the shipped family, with either charge, against one without the dense reward and TRL's own."""
    shipped = config.load(RECIPE).family.model_copy(update={"steps": steps, "save_every": steps})
    assert shipped.dense
    plain = shipped.model_copy(update={"reward": "alpha", "dense": None})
    stages = {
        "charged for tokens": shipped,
        "charged for information": shipped.model_copy(update={"dense": DenseReward(credit=shipped.dense.credit)}),
        "without": plain,
    }
    with tempfile.TemporaryDirectory() as work:
        rows = {name: step_times(steps, Path(work) / name, stage) for name, stage in stages.items()}
        of_trl = statistics.median(stock_times(steps, Path(work), plain))
    measured: dict[str, Any] = {"steps": steps - 1, "seconds_of_trl": of_trl}
    for name, own in rows.items():
        seconds = statistics.median(row["step_time"] for row in own)
        shares = [row.get("reward/seconds", 0.0) / row["step_time"] for row in own]
        measured[name] = {
            "seconds": seconds,
            "share": statistics.median(shares),
            "lowest_share": min(shares),
            "highest_share": max(shares),
            "of_trl": seconds / of_trl,
        }
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--rollouts", type=int, default=4, help="rollouts in a batch")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="training steps; the first is left out")
    chosen = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()
    results = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "probing": probing(model, chosen.rollouts, chosen.repeats),
        "compression": compression(model, chosen.rollouts, chosen.repeats),
        "step": step(chosen.steps),
    }
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "dense_reward.json").write_text(json.dumps(results, indent=1) + "\n")
    plots.dense_reward(results, chosen.out / "dense_reward.png")
    for row in results["probing"]:
        ratios = ", ".join(f"{name} {row[name]['ratio']:.1f} times" for name in ("packed", "after sampling"))
        print(f"probes, T={row['thinking_tokens']:4d} K={row['episodes']:2d}: {ratios} (tokens {row['tokens']:.1f})")
    for row in results["compression"]:
        print(f"compression, T={row['thinking_tokens']:4d} K={row['episodes']:2d}: {row['ratio']:.1f} times")
    step_results = results["step"]
    for name in ("charged for tokens", "charged for information"):
        print(f"dense reward {name}: {step_results[name]['share']:.1%} of a step")
        print(f"    which takes {step_results[name]['of_trl']:.2f} of the time of TRL's own GRPO step without it")


if __name__ == "__main__":
    main()
