"""The fine-tuning changes what it should: the adapter's layers, and of the embeddings only the marks."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from training.coldstart import marks, tune
from training.coldstart.traces import Trace
from training.job import checkpoints
from training.recipe_base import ColdStart

TRACES = [Trace(f"How many are {number}?", "There are two.", "The answer is \\boxed{2}.") for number in range(8)]
STAGE = ColdStart(epochs=4, batch=4, micro_batch=2, lr=1e-2, lora_rank=4)


def tuned(stranger: Path, stage: ColdStart, work: Path):
    model, tokenizer = checkpoints.load_model(stranger), checkpoints.load_tokenizer(stranger)
    ids = marks.add_marks(tokenizer)
    marks.make_room(model, tokenizer, ids)
    before = copy.deepcopy(model.state_dict())
    trained = tune.tune(model, tokenizer, TRACES, stage, marks=ids, seed=0, work=work).merge_and_unload()
    return before, trained, tokenizer, ids


def changed_rows(before: torch.Tensor, after: torch.Tensor) -> list[int]:
    return (before != after).any(1).nonzero().flatten().tolist()


def test_an_adapter_trains_its_layers_and_the_marks_alone(stranger: Path, tmp_path: Path) -> None:
    before, trained, _, ids = tuned(stranger, STAGE, tmp_path / "work")
    after = trained.state_dict()
    assert before.keys() == after.keys()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert changed_rows(before[name], after[name]) == ids
    projection = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(before[projection], after[projection])
    assert torch.equal(before["model.norm.weight"], after["model.norm.weight"])


def test_what_is_saved_is_what_was_trained(stranger: Path, tmp_path: Path) -> None:
    """The merged model gives the traces the probability that they had at the end of the training."""
    before, trained, tokenizer, _ = tuned(stranger, STAGE, tmp_path / "work")
    trained.save_pretrained(tmp_path / "model")
    example = tune.encode(TRACES[0], tokenizer)
    ids, labels = (torch.tensor([example[name]]) for name in ("input_ids", "labels"))
    with torch.no_grad():
        last = trained.eval()(input_ids=ids, labels=labels).loss
        loaded = checkpoints.load_model(tmp_path / "model").eval()(input_ids=ids, labels=labels).loss
        trained.load_state_dict(before)
        first = trained(input_ids=ids, labels=labels).loss
    assert loaded == pytest.approx(last)
    assert last < first - 1


def test_an_interrupted_tuning_ends_like_one_that_was_not(
    stranger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = STAGE.model_copy(update={"save_every": 3})
    _, whole, _, _ = tuned(stranger, stage, tmp_path / "whole" / "work")
    stop_at(monkeypatch, 5)
    with pytest.raises(KeyboardInterrupt):
        tuned(stranger, stage, tmp_path / "killed" / "work")
    monkeypatch.undo()
    _, resumed, _, _ = tuned(stranger, stage, tmp_path / "killed" / "work")
    for (name, one), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Interrupt the training at the begin of a step, as a kill would."""

    def on_step_begin(self: object, args: object, state: object, control: object, **_: object) -> None:
        if state.global_step == step:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    monkeypatch.setattr(tune.MarkComplete, "on_step_begin", on_step_begin)
