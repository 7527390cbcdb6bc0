"""A checkpoint that learns to decide starts from what reinforcement learning made, and goes on after a kill."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from training import stages
from training.config import FamilyStage, Recipe
from training.deciding import stage as deciding
from training.deciding.lessons import Lesson
from training.deciding.tried import Trial
from training.deciding.tune import DecidingTrainer, ordered, padded, tune
from training.errors import StageError
from training.job import checkpoints
from training.recipe_base import ColdStart
from training.recipe_deciding import Deciding
from training.rewards.information_gain import Probe

BASE = Path("models/abacus/base")
SMALL = Deciding(questions=8, batch=4, micro_batch=4, epochs=1, save_every=2)


def with_deciding(recipe: Recipe, settings: Deciding | None = SMALL, **changes: Any) -> Recipe:
    family = recipe.family.model_copy(update={"deciding": settings, "max_tokens": 320, **changes})
    return recipe.model_copy(update={"family": family})


def weights(adapter: Path) -> dict[str, torch.Tensor]:
    model = PeftModel.from_pretrained(checkpoints.load_model(BASE), str(adapter))
    return {name: value for name, value in model.state_dict().items() if "lora_" in name}


def test_a_checkpoint_goes_on_from_what_reinforcement_learning_left(on_shipped: Recipe) -> None:
    recipe = with_deciding(on_shipped)
    stages.family(recipe)
    target = checkpoints.trained_path(recipe, "alpha-0.1")
    before, after = weights(target.with_name("reinforced")), weights(target)
    assert before.keys() == after.keys()
    moved = max((before[name] - after[name]).abs().max().item() for name in before)
    assert 0 < moved < 0.1
    assert target.with_name("deciding.jsonl").exists()


def test_other_settings_of_deciding_keep_the_reinforcement_learning(
    on_shipped: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = with_deciding(on_shipped)
    stages.family(recipe)
    target = checkpoints.trained_path(recipe, "alpha-0.1")
    dearer = with_deciding(on_shipped, SMALL.model_copy(update={"price": 0.02}))
    with pytest.raises(StageError, match=r"deciding changed .*; remove .*adapter to make it again"):
        stages.family(dearer)
    first = weights(target)
    shutil.rmtree(target)

    def not_again(*_: object) -> None:
        raise AssertionError("reinforcement learning ran again")

    monkeypatch.setattr(stages, "_reinforce", not_again)
    stages.family(dearer)
    assert len([*target.parent.glob("tried-*.jsonl")]) == 1, "a price changes nothing that was tried"
    assert any(not torch.equal(first[name], value) for name, value in weights(target).items())


BEFORE = SMALL.model_copy(update={"when": "before"})


def test_reinforcement_learning_goes_on_from_a_base_that_decides_already(
    on_shipped: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, train = with_deciding(on_shipped, BEFORE, alphas=(0.0, 0.1), steps=2), stages.trainer.train
    starts: dict[float, dict[str, torch.Tensor]] = {}

    def noted(model: Any, *args: Any, alpha: float, **kwargs: Any) -> Any:
        starts[alpha] = {name: value.clone() for name, value in model.state_dict().items() if "lora_" in name}
        return train(model, *args, alpha=alpha, **kwargs)

    monkeypatch.setattr(stages.trainer, "train", noted)
    stages.family(recipe)
    target = checkpoints.trained_path(recipe, "alpha-0.1")
    decided, after = weights(target.with_name("decided")), weights(target)
    assert not starts[0.0], "at alpha 0, training starts at the base"
    assert starts[0.1].keys() == decided.keys()
    assert all(torch.equal(starts[0.1][name], value) for name, value in decided.items())
    assert any(value.any() for name, value in decided.items() if "lora_B" in name), "a new adapter's B is 0"
    assert after.keys() == decided.keys()
    assert any(not torch.equal(after[name], value) for name, value in decided.items())


def test_all_alphas_share_what_the_base_tried(on_shipped: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = with_deciding(on_shipped, BEFORE, alphas=(0.1,))
    stages.family(recipe)
    (tries,) = (recipe.run_dir / "family" / "tried").glob("*.jsonl")
    written = tries.read_text()

    def not_again(*_: object) -> None:
        raise AssertionError("the base tried again")

    monkeypatch.setattr(Trial, "_block", not_again)
    stages.family(with_deciding(on_shipped, BEFORE, alphas=(0.2,)))
    assert [*tries.parent.glob("*.jsonl")] == [tries]
    assert tries.read_text() == written
    assert not [*recipe.run_dir.glob("family/alpha-*/tried-*.jsonl")]


def test_other_reinforcement_learning_can_go_on_from_what_was_learned_before(
    on_shipped: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = with_deciding(on_shipped, BEFORE)
    stages.family(recipe)
    target = checkpoints.trained_path(recipe, "alpha-0.1")
    other = with_deciding(on_shipped, BEFORE, lr=1e-4)
    with pytest.raises(StageError, match=r"lr changed .*; remove \S*alpha-0\.1 to make it again"):
        stages.family(other)  # the adapter alone would be made again from the old work
    for path in (target, target.with_name("adapter.made-from.json"), target.with_name("work-of-decided")):
        path.rename(path.with_name(f"old-{path.name}"))

    def not_again(*_: object) -> None:
        raise AssertionError("it learned to decide again")

    monkeypatch.setattr(deciding, "run", not_again)
    stages.family(other)
    assert target.exists()
    with pytest.raises(StageError, match=r"decided: deciding changed .*; remove .*alpha-0\.1 to make it again"):
        stages.family(with_deciding(on_shipped, BEFORE.model_copy(update={"price": 0.02})))


def test_what_is_tried_is_probed_in_the_words_of_the_cold_start(
    on_shipped: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    probed: list[Probe] = []

    def stopped(trial: Trial, *_: object, **__: object) -> None:
        probed.append(trial.grader.probe("39"))
        raise StageError("stopped")

    monkeypatch.setattr(Trial, "draw", stopped)
    monkeypatch.setattr(checkpoints, "base_directory", lambda _: BASE)
    base = on_shipped.base.model_copy(update={"cold_start": ColdStart(answer="Answer: {}!")})
    paths = set[Path]()
    for recipe in (on_shipped, on_shipped.model_copy(update={"base": base})):
        own = with_deciding(recipe, reward="alpha")
        target = checkpoints.trained_path(own, "alpha-0.1")
        with pytest.raises(StageError, match="stopped"):
            deciding.run(own, 0.1, None, target)
        paths.add(deciding._path_of_tries(own, SMALL, None, target))
    tokenizer = checkpoints.load_tokenizer(BASE)
    before, after = (tokenizer.decode([*probe.stop, *probe.answer]).split("</think>")[1].strip() for probe in probed)
    assert (before, after) == ("The answer is 39.", "Answer: 39!")
    assert len(paths) == 2, "tries of other words have another file"


def test_a_checkpoint_that_decides_depends_on_the_words_that_it_was_probed_in(
    on_shipped: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "base_directory", lambda _: BASE)
    plain = with_deciding(on_shipped, reward="alpha")
    cold = plain.model_copy(update={"base": on_shipped.base.model_copy(update={"cold_start": ColdStart()})})
    whole = stages.family_record(cold)
    assert "probe" not in stages.family_record(plain), "older checkpoints stay valid"
    assert whole["probe"]["answer"] == ColdStart().answer
    assert "probe" in stages._decided(whole)
    assert "probe" not in stages._reinforced_alone(whole)


@pytest.mark.parametrize(("tune", "work"), [("lora", "work"), ("full", "work-of-model")])
def test_reinforcement_learning_from_another_start_has_checkpoints_of_its_own(
    on_shipped: Recipe, monkeypatch: pytest.MonkeyPatch, tune: str, work: str
) -> None:
    works: list[str] = []

    def stopped(*_: object, work: Path, **__: object) -> None:
        works.append(work.name)
        raise StageError("stopped")

    def learns_nothing(recipe: Recipe, alpha: float, start: Path | None, target: Path) -> None:
        target.mkdir()

    monkeypatch.setattr(stages.trainer, "train", stopped)
    monkeypatch.setattr(stages.checkpoints, "load_to_train", lambda *_: (None, None))
    monkeypatch.setattr(stages.deciding, "run", learns_nothing)
    for settings in (SMALL, BEFORE, SMALL):
        with pytest.raises(StageError, match="stopped"):
            stages.family(with_deciding(on_shipped, settings, tune=tune))
    assert works == [work, f"{work}-of-decided", work]


def test_at_alpha_0_nothing_is_decided(on_shipped: Recipe) -> None:
    recipe = with_deciding(on_shipped, alphas=(0.0,))
    stages.family(recipe)
    target = checkpoints.trained_path(recipe, "alpha-0")
    assert target.exists()
    assert not [*target.parent.glob("tried-*.jsonl")]


def test_thinking_that_leaves_no_room_is_an_error_that_names_the_field(on_shipped: Recipe) -> None:
    with pytest.raises(StageError, match=r"family\.deciding: only 0 of 8 .*family\.max_tokens \(16\)"):
        stages.family(with_deciding(on_shipped, max_tokens=16))


def lessons() -> list[Lesson]:
    """After `1` another episode pays, after `2` it does not: a check on one question, none on the other."""
    tokenizer = checkpoints.load_tokenizer(BASE)
    rows: list[Lesson] = []
    for number, worth in ((1, 0.5), (2, -0.5)):
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": f"What is {number} + {number}?"}],
            add_generation_prompt=True,
            return_dict=False,
        )
        first = tokenizer.encode(f"\n{number}+{number}={2 * number}\nso {2 * number}", add_special_tokens=False)
        ids = [*prompt, *first, *tokenizer.encode("\n\n", add_special_tokens=False)]
        kept = [0.0] * len(prompt) + [1.0] * len(first) + [0.0]
        rows.append(Lesson(ids, kept, [0.0] * len(ids), [0.0] * (len(ids) - 1) + [worth]))
    return rows


def opening(model: Any, rows: list[Lesson]) -> list[float]:
    """P of each lesson's last token."""
    batch = padded([asdict(row) for row in rows])
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return [logits[i, len(row.ids) - 2].softmax(-1)[row.ids[-1]].item() for i, row in enumerate(rows)]


def adapted() -> PeftModel:
    torch.manual_seed(0)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(checkpoints.load_model(BASE), lora)


def test_another_episode_becomes_likely_where_it_pays_and_unlikely_where_it_does_not(tmp_path: Path) -> None:
    settings = Deciding(batch=2, micro_batch=2, epochs=60, save_every=100)
    rows = lessons()
    trained = tune(
        adapted(),
        checkpoints.load_model(BASE),
        checkpoints.load_tokenizer(BASE),
        rows,
        settings,
        seed=0,
        work=tmp_path / "work",
    )
    pays, wastes = opening(trained, rows)
    assert pays > 0.8
    assert wastes < 0.2


def test_the_pass_itself_stays_as_it_was(tmp_path: Path) -> None:
    settings = Deciding(batch=2, micro_batch=2, epochs=60, save_every=100)
    rows, before, tokenizer = lessons(), checkpoints.load_model(BASE), checkpoints.load_tokenizer(BASE)
    moved: list[float] = []
    for kept in (rows, [replace(row, kept=[0.0] * len(row.ids)) for row in rows]):
        work = tmp_path / str(len(moved)) / "work"
        moved.append(divergence(tune(adapted(), before, tokenizer, kept, settings, seed=0, work=work), before, rows))
    assert moved[0] < 0.5 * moved[1]


def divergence(model: Any, before: Any, rows: list[Lesson]) -> float:
    """Sum of KL(before || model) over the tokens of passes."""
    batch = padded([asdict(row) for row in rows])
    given = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    with torch.no_grad():
        old, new = (one(**given).logits[:, :-1].log_softmax(-1) for one in (before, model))
    return ((old.exp() * (old - new)).sum(-1) * batch["kept"][:, 1:]).sum().item()


def test_training_goes_on_at_the_last_checkpoint_and_ends_with_the_same_weights(tmp_path: Path) -> None:
    settings = Deciding(batch=2, micro_batch=2, epochs=6, save_every=2)
    before, tokenizer = checkpoints.load_model(BASE), checkpoints.load_tokenizer(BASE)
    whole = tune(adapted(), before, tokenizer, lessons(), settings, seed=0, work=tmp_path / "whole" / "work")
    work = tmp_path / "again" / "work"
    tune(adapted(), before, tokenizer, lessons(), settings, seed=0, work=work)
    for later in work.glob("checkpoint-*"):
        if int(later.name.rpartition("-")[2]) > 2:
            (later / "complete").unlink()
    again = tune(adapted(), before, tokenizer, lessons(), settings, seed=0, work=work)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_each_epoch_has_every_lesson_once_in_batches_of_similar_length_in_any_order() -> None:
    made = [Lesson([0] * length, *[[0.0] * length] * 3) for length in range(1, 1003)]
    order = ordered(made, batch=8, epochs=2, seed=0)
    for epoch in (order[:1002], order[1002:]):
        assert sorted(len(lesson.ids) for lesson in epoch) == [*range(1, 1003)]
        lengths = [[len(lesson.ids) for lesson in epoch[i : i + 8]] for i in range(0, 1000, 8)]
        assert sum(max(batch) - min(batch) for batch in lengths) / len(lengths) < 60
        means = [sum(batch) / 8 for batch in lengths]
        assert means != sorted(means)
        assert abs(sum(means[:62]) / 62 - sum(means[-62:]) / 62) < 150, "long ones do not all come first"
    assert order[:1002] != order[1002:]
    assert order == ordered(made, batch=8, epochs=2, seed=0)


@pytest.mark.parametrize(("step", "sharp"), [(0, 0.0), (50, 0.0), (75, 0.5), (100, 1.0)])
def test_decisions_are_sharpened_in_the_second_half(step: int, sharp: float) -> None:
    trainer = DecidingTrainer.__new__(DecidingTrainer)
    trainer.state = type("State", (), {"global_step": step, "max_steps": 100})()
    assert trainer.sharp == sharp


def test_deciding_needs_episodes_that_a_blank_line_ends() -> None:
    with pytest.raises(ValueError, match=r"deciding: needs dense.split_by: blank_line, not tokens"):
        Recipe.model_validate(
            {
                "name": "x",
                "description": "d",
                "run_dir": "run",
                "family": {"reward": "l2t", "dense": {"split_by": "tokens"}, "deciding": {}},
            }
        )


def test_deciding_first_cannot_be_held_near_the_base() -> None:
    with pytest.raises(ValueError, match=r"kl: must be 0 with deciding.when: before"):
        FamilyStage(reward="alpha", kl=0.01, deciding=Deciding(when="before"))
    assert FamilyStage(reward="alpha", kl=0.01, deciding=Deciding(when="after"))
