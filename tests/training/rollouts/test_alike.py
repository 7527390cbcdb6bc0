"""A run whose first rollouts are all wrong, or all right, warns once and goes on."""

import pytest
import torch

from training import trainer
from training.config import FamilyStage
from training.rollouts.alike import Alike
from training.rollouts.grade import Grader
from training.tasks.prompts import prompts

STAGE = FamilyStage(steps=3, prompts_per_step=1, rollouts=4, max_tokens=12, lora_rank=2, save_every=9)


def step(watch: Alike, number: int, correct: list[int], finished: list[int] | None = None) -> str | None:
    verdicts, ended = torch.tensor(correct), torch.tensor(finished or [1] * len(correct))
    return watch.after(number, verdicts, ended, ended, example="answered '41', the gold answer is '42'")


def test_two_steps_of_wrong_rollouts_are_reported_once():
    watch = Alike(9)
    assert step(watch, 1, [0, 0, 0]) is None
    said = step(watch, 2, [0, 0, 0], [1, 0, 0])
    assert said is not None
    assert said.startswith("all 6 rollouts of steps 1 to 2 were wrong")
    assert "2 were cut off" in said
    assert "answered '41', the gold answer is '42'" in said
    assert "\n" not in said
    assert step(watch, 3, [0, 0, 0]) is None


def test_right_rollouts_are_reported_and_mixed_ones_are_not():
    watch, mixed, late = Alike(9), Alike(9), Alike(1)
    assert step(watch, 5, [1, 1]) is None
    assert str(step(watch, 6, [1, 1])).startswith("all 4 rollouts of steps 5 to 6 were right")
    assert [step(mixed, n, verdicts) for n, verdicts in enumerate(([0, 0], [1, 1], [0, 0], [0, 0]), 1)] == [None] * 4
    assert str(step(late, 1, [1, 1])).startswith("all 2 rollouts of step 1 were right")


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("7</think>The answer is 41.<|im_end|>", "answered '41', the gold answer is '42'"),
        ("7</think>It is unclear.<|im_end|>", "marked no answer in 'It is unclear.', the gold answer is '42'"),
        ("The answer is 42.<|im_end|>", "never closed its thinking with </think>"),
        ("7</think>The answer is 42.", "was cut off after"),
        ("", "was cut off after 0 tokens"),
    ],
)
def test_a_rollout_is_explained_as_the_grader_sees_it(tokenizer, text, seen):
    assert seen in Grader(tokenizer).explained(tokenizer.encode(text), "42")


@pytest.mark.parametrize("case", [("none", "were wrong"), (None, "were right")])
def test_training_warns_once_and_goes_on(model, tokenizer, tmp_path, monkeypatch, case):
    answer, said = case

    def generate(self: trainer.CheckpointTrainer, prompt_ids: list[list[int]], *_: object, **__: object) -> tuple:
        text = f"7</think>The answer is {answer or self.train_dataset[0]['gold']}.<|im_end|>"
        return [self.processing_class.encode(text) for _ in prompt_ids], None

    said_lines: list[str] = []
    monkeypatch.setattr(trainer._console, "print", lambda line, **_: said_lines.append(line))
    monkeypatch.setattr(trainer.CheckpointTrainer, "_generate_single_turn", generate)
    questions = prompts("train", 0, 1) * 3
    trained = trainer.train(model, tokenizer, STAGE, questions, alpha=0.1, seed=0, work=tmp_path / "work")
    assert trained.state.global_step == 3
    warnings = [line for line in said_lines if "family: all 8 rollouts" in line]
    assert len(warnings) == 1
    assert f"of steps 1 to 2 {said}" in warnings[0]
    if answer:
        assert f"answered 'none', the gold answer is '{questions[0].answer}'" in warnings[0]
