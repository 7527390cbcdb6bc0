import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training import two_processes
from tests.training.conftest import TINY
from training import base, trainer
from training.config import FamilyStage
from training.credit import leave_one_out
from training.rewards.length import length_reward
from training.tasks.prompts import prompts
from training.trainer import sorted_by_length

STAGE = FamilyStage(steps=2, prompts_per_step=2, rollouts=4, max_tokens=12, lora_rank=2, save_every=1)


def launched(processes: int, out: Path) -> dict[str, list[float]]:
    launcher = ["torch.distributed.run", "--nproc-per-node", str(processes)]
    launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "--local-addr", "localhost", "-m"]
    subprocess.run(
        [sys.executable, "-m", *(launcher if processes > 1 else []), "tests.training.two_processes", str(out)],
        check=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )
    parts = sorted(out.glob("advantages-*.json"))
    assert len(parts) == processes
    rows = [json.loads(part.read_text()) for part in parts]
    assert all(len(row) == two_processes.STAGE.rollouts // processes for row in rows)
    return {length: value for row in rows for length, value in row.items()}


def test_a_group_that_spans_two_processes_has_the_advantages_of_one(tmp_path):
    (tmp_path / "two").mkdir()
    (tmp_path / "one").mkdir()
    two = launched(2, tmp_path / "two")
    one = launched(1, tmp_path / "one")
    lengths = sorted(map(int, two))
    reward = length_reward(torch.tensor([1.0, 0, 1, 1]), torch.tensor(lengths), 4, two_processes.ALPHA)
    expected = leave_one_out(reward, 4).tolist()
    assert [two[str(n)][0] for n in lengths] == pytest.approx(expected, abs=1e-5)
    assert one == two


def test_training_changes_the_adapter_and_logs_every_step(model, spoken, tmp_path):
    work = tmp_path / "work"
    trained = trainer.train(model, spoken, STAGE, prompts("train", 0, 4), alpha=0.1, seed=0, work=work)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "rollout/accuracy" in line]
    assert steps == [1, 2]
    assert {p.name for p in work.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}
    assert any("lora" in name for name, _ in trained.model.named_parameters())
    assert list(work.rglob("events.out.tfevents.*"))


def test_micro_batches_are_sorted_and_lose_nothing_but_padding():
    torch.manual_seed(0)
    lengths = torch.tensor([3, 9, 1, 7, 5, 2, 8, 4])
    prompt_lengths = torch.tensor([2, 2, 3, 3, 4, 4, 1, 1])
    mask = (torch.arange(9) < lengths[:, None]).long()
    prompt_mask = (torch.arange(4).flip(0) < prompt_lengths[:, None]).long()
    whole = {
        "prompt_ids": torch.randint(1, 9, (8, 4)) * prompt_mask,
        "prompt_mask": prompt_mask,
        "completion_ids": torch.randint(1, 9, (8, 9)) * mask,
        "completion_mask": mask,
        "advantages": torch.randn(8, 1) * mask,
    }
    batches = [
        {k: v[i : i + 2] for k, v in whole.items()} | {"num_items_in_batch": torch.tensor(39)} for i in range(0, 8, 2)
    ]
    found = sorted_by_length(batches)
    assert [batch["completion_mask"].shape for batch in found] == [(2, 9), (2, 7), (2, 4), (2, 2)]
    assert all(batch["num_items_in_batch"] == 39 for batch in found)
    for key in ("completion_ids", "advantages", "prompt_ids"):
        assert sum(float(b[key].sum()) for b in found) == pytest.approx(float(whole[key].sum()))


def test_rollouts_that_do_not_divide_are_refused(tmp_path):
    stage = FamilyStage(prompts_per_step=11, rollouts=3)
    with pytest.raises(ValueError, match="33 rollouts a step do not divide"):
        trainer._arguments(stage, 0.1, 0, tmp_path)


def test_alpha_zero_and_alpha_differ_only_in_the_reward(spoken, tmp_path):
    """Same seed, same rollouts in the first step; the logged accuracy is equal and the reward is not larger."""
    logs = []
    for alpha in (0.0, 0.4):
        torch.manual_seed(0)
        out = tmp_path / f"{alpha}"
        trainer.train(
            base.new_model(TINY, spoken), spoken, STAGE, prompts("train", 0, 4), alpha=alpha, seed=0, work=out / "work"
        )
        logs.append(json.loads((out / "metrics.jsonl").read_text().splitlines()[0]))
    assert logs[0]["rollout/reasoning_tokens"] == logs[1]["rollout/reasoning_tokens"]
    assert logs[0]["reward"] >= logs[1]["reward"]
