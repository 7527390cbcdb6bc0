"""What does each stage of a run do, and what does it leave behind? base -> family -> evaluate -> profile -> publish.

Every stage writes its artefact whole or not at all and is skipped where the artefact stands already, made from the same
inputs (`training.job.record`); the two long ones also go on from their last complete checkpoint. So after a kill at any
moment the same command goes on.

    RUN/base/trained/          the base as it was trained          RUN/base/metrics.jsonl  the training's log
    RUN/base/model/            the base at its temperature         RUN/base/gate.json      whether it is fit
    RUN/family/alpha-A/adapter the LoRA adapter, or model          RUN/family/alpha-A/metrics.jsonl, episodes.jsonl
    RUN/evaluate/NAME.jsonl    outcomes on held-out prompts
    RUN/profile/NAME.jsonl     outcomes on test prompts            RUN/profile/profile.json
    RUN/profile/NAME.budget-forced.jsonl answers after stopped thinking
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from models import family as manifest
from models.files import write_json
from models.profile import SCHEMA_VERSION
from training import trainer
from training.base import gate, traces
from training.base import train as base_training
from training.base.tokenizer import build as build_tokenizer
from training.checks import PROFILE_SEED_OFFSET, check, check_target
from training.config import BaseStage, PretrainedBase, Recipe, checkpoint_name
from training.errors import StageError
from training.job import checkpoints
from training.job.record import fingerprint, is_up_to_date, require_up_to_date
from training.job.resume import alone, processes
from training.measure import outcomes
from training.profile import fit
from training.publish import assemble
from training.rollouts.params import SamplingParams
from training.tasks import outcome
from training.tasks.problems import DIFFICULTIES
from training.tasks.source import data_record, questions

_console = Console(stderr=True)


def base(recipe: Recipe) -> None:
    """Train the base, then let the gate decide.

    Raises:
        StageError: the base fails the gate; names each figure.
    """
    directory, stage = recipe.run_dir / "base", recipe.base
    if isinstance(stage, PretrainedBase):
        checkpoints.base_directory(recipe)
        return
    with alone(directory):
        if not is_up_to_date(directory / "trained", _trained_record(recipe, stage), remove=directory):
            tokenizer = build_tokenizer(stage.vocabulary, recipe.seed)
            model = base_training.train(stage, tokenizer, recipe.seed, directory / "work")
            with _whole(directory / "trained") as unfinished:
                model.save_pretrained(unfinished)
                tokenizer.save_pretrained(unfinished)
    if not is_up_to_date(directory / "model", _model_record(directory, stage)):
        model = checkpoints.load_model(directory / "trained")
        tokenizer = checkpoints.load_tokenizer(directory / "trained")
        base_training.fold_temperature(model, stage.temperature)
        with _whole(directory / "model") as unfinished:
            # Half the bytes to ship; everything downstream, the gate first, sees the rounded weights.
            model.to(torch.bfloat16).save_pretrained(unfinished)  # pyright: ignore[reportArgumentType]
            tokenizer.save_pretrained(unfinished)
    if not is_up_to_date(directory / "gate.json", _gate_record(recipe, directory, stage)):
        write_json(directory / "gate.json", _measure_gate(recipe, stage.gate_prompts))
    _require_fit(recipe)


def family(recipe: Recipe, alphas: Sequence[float] | None = None) -> None:
    """Train one checkpoint per alpha from the same base; only those of `alphas` where given."""
    _require_base(recipe)
    check(recipe)
    made_from = family_record(recipe)
    for alpha in alphas or recipe.family.alphas:
        target = checkpoints.trained_path(recipe, checkpoint_name(alpha))
        with alone(target.parent):
            with processes().main_process_first():
                done = is_up_to_date(target, made_from, remove=target.parent)
            if done:
                _console.print(f"family: {target} stands already")
                continue
            _train(recipe, alpha, target)


def family_record(recipe: Recipe) -> dict[str, Any]:
    """What a trained checkpoint depends on besides its alpha."""
    stage, dense = recipe.family, recipe.family.dense_reward
    return {
        "training": trainer.VERSION,
        "seed": recipe.seed,
        "data": data_record(recipe.data),
        **stage.model_dump(exclude={"alphas", "save_every", "micro_batch", "gradient_checkpointing", "dense"}),
        "dense": dense and dense.model_dump(exclude={"memory_gib"}),
        "dtype": checkpoints.dtype(recipe),
        "base": fingerprint(checkpoints.base_directory(recipe)),
    }


def _train(recipe: Recipe, alpha: float, target: Path) -> None:
    """A function of its own, so that nothing of one alpha's training is left in memory when the next begins."""
    model, tokenizer = checkpoints.load_base(recipe)
    asked = questions(recipe.data, "train", recipe.seed + 1, recipe.family.steps * recipe.family.prompts_per_step)
    _console.print(f"family: training {checkpoint_name(alpha)}, {recipe.family.steps} steps")
    work = target.with_name("work" if target.name == "adapter" else "work-of-model")
    trained = trainer.train(model, tokenizer, recipe.family, asked, alpha=alpha, seed=recipe.seed, work=work)
    if trained.accelerator.is_main_process:
        with _whole(target) as unfinished:
            trained.accelerator.unwrap_model(trained.model).save_pretrained(unfinished)
            if recipe.family.tune == "full":
                tokenizer.save_pretrained(unfinished)
    trained.accelerator.wait_for_everyone()
    trained.accelerator.free_memory()
    del trained, model
    gc.collect()
    torch.cuda.empty_cache()


def evaluate(recipe: Recipe) -> None:
    """Measure every checkpoint on held-out prompts."""
    _require_family(recipe)
    stage = recipe.evaluate
    asked = questions(recipe.data, "heldout", recipe.seed, stage.prompts)
    params = outcomes.sampling_params(recipe, samples=stage.samples)
    for name in checkpoints.names(recipe):
        path = outcomes.path_in(recipe.run_dir / "evaluate", name)
        outcomes.measure(recipe, name, asked, path, params)


def fit_profile(recipe: Recipe) -> None:
    """Measure every checkpoint on test prompts and fit the difficulty profile on the outcomes."""
    _require_family(recipe)
    directory, stage = recipe.run_dir / "profile", recipe.profile
    asked = questions(recipe.data, "test", recipe.seed + PROFILE_SEED_OFFSET, stage.prompts)
    params = outcomes.sampling_params(recipe, samples=stage.samples)
    paths = {name: outcomes.path_in(directory, name) for name in checkpoints.names(recipe)}
    budget_forced_paths = {name: outcomes.path_in(directory, name, budget_forced=True) for name in paths}
    for name, path in paths.items():
        outcomes.measure(recipe, name, asked, path, params, surprisal=_may_be_first(name))
        outcomes.measure_budget_forced(recipe, name, asked[: stage.budget_forced_prompts], budget_forced_paths[name])
    if is_up_to_date(directory / "profile.json", _profile_record(directory, paths)):
        return
    measured = {name: outcome.load(path) for name, path in paths.items()}
    stopped = {name: outcome.load_budget_forced(path) for name, path in budget_forced_paths.items()}
    fit.save(fit.fit(measured, stopped, recipe.seed), directory / "profile.json")


def publish_family(recipe: Recipe, recipe_path: Path) -> None:
    """Assemble the family's directory: checkpoints, manifest, profile, model card and plots."""
    target = check_target(recipe)
    _require_family(recipe)
    run, names, stage = recipe.run_dir, checkpoints.names(recipe), recipe.evaluate
    for name in names:
        params = outcomes.sampling_params(recipe, samples=stage.samples)
        profiled = {"prompts": recipe.profile.prompts, "samples": recipe.profile.samples}
        record = outcomes.record(recipe, name, params, prompts=stage.prompts)  # reads all weights: once
        require_up_to_date(outcomes.path_in(run / "evaluate", name), record)
        unsure = {"surprisal": True} if _may_be_first(name) else {}
        require_up_to_date(outcomes.path_in(run / "profile", name), record | profiled | unsure)
        cut = {"prompts": recipe.profile.budget_forced_prompts, "samples": 1}
        require_up_to_date(outcomes.path_in(run / "profile", name, budget_forced=True), record | cut)
    require_up_to_date(run / "profile" / "profile.json", _profile_record(run / "profile", names))
    for name in names[1:]:
        if not (log := checkpoints.trained_path(recipe, name).with_name("metrics.jsonl")).exists():
            raise StageError(f"{log} is missing: the card needs it")
    with _whole(target) as unfinished:
        assemble.assemble(recipe, recipe_path, checkpoints.base_directory(recipe), unfinished)
        manifest.load(unfinished)
    _console.print(f"published {target}")


def _measure_gate(recipe: Recipe, count: int) -> dict[str, object]:
    model, tokenizer = checkpoints.load_base(recipe)
    seed = recipe.seed

    def measured(temperature: float) -> dict[str, gate.Figures]:
        with outcomes.bar(count * len(DIFFICULTIES), f"gate, temperature {temperature:g}") as progress:
            return gate.measure(
                model,
                tokenizer,
                SamplingParams(recipe.family.max_tokens, temperature),
                count=count,
                seed=seed,
                on_batch=progress,
            )

    return gate.report(measured(1.0), measured(0.0), count, seed)


def _trained_record(recipe: Recipe, stage: BaseStage) -> dict[str, Any]:
    not_the_training = {"temperature", "save_every", "compile", "gate_prompts", "gate_stops", "truncated"}
    made_from = {"seed": recipe.seed, "traces": traces.VERSION, **stage.model_dump(exclude=not_the_training)}
    return {**made_from, "cut": stage.truncated}  # under its first name, so that bases trained before remain up to date


def _model_record(directory: Path, stage: BaseStage) -> dict[str, Any]:
    return {"temperature": stage.temperature, "trained": fingerprint(directory / "trained")}


def _gate_record(recipe: Recipe, directory: Path, stage: BaseStage) -> dict[str, Any]:
    judged = {"seed": recipe.seed, "gate_prompts": stage.gate_prompts, "max_tokens": recipe.family.max_tokens}
    return {**judged, "base": fingerprint(directory / "model")}


def _profile_record(directory: Path, names: Iterable[str]) -> dict[str, Any]:
    files = [outcomes.path_in(directory, name, budget_forced=forced) for name in names for forced in (False, True)]
    return {"version": SCHEMA_VERSION, **{file.name: fingerprint(file) for file in files}}


def _may_be_first(name: str) -> bool:
    """Whether second thoughts may follow this checkpoint's: not the base, nor what was trained to be right alone."""
    return name not in ("base", checkpoint_name(0.0))


def _require_base(recipe: Recipe) -> None:
    """See that the base is there, is what the recipe says now, and has passed the gate."""
    _require_fit(recipe)
    if isinstance(stage := recipe.base, BaseStage):
        directory = recipe.run_dir / "base"
        require_up_to_date(directory / "trained", _trained_record(recipe, stage), remove=directory)
        require_up_to_date(directory / "model", _model_record(directory, stage))
        require_up_to_date(directory / "gate.json", _gate_record(recipe, directory, stage))


def _require_family(recipe: Recipe) -> None:
    """See that base and checkpoints are there, and are what the recipe says now."""
    _require_base(recipe)
    made_from = family_record(recipe)
    for name in checkpoints.names(recipe)[1:]:
        trained = checkpoints.trained_path(recipe, name)
        require_up_to_date(trained, made_from, remove=trained.parent)


def _require_fit(recipe: Recipe) -> None:
    """See that the base has passed the gate."""
    stage = recipe.base
    if isinstance(stage, PretrainedBase):
        return
    directory = recipe.run_dir / "base"
    if not (directory / "gate.json").exists():
        raise StageError(f"{directory / 'gate.json'} is missing; run the base stage first: laconic-train base")
    failures = json.loads((directory / "gate.json").read_text())["failures"]
    if failures and stage.gate_stops:
        raise StageError(
            "the base is not fit for a family: "
            + "; ".join(failures)
            + f". Change the recipe's base section and remove {directory};"
            + " for another temperature only model and gate.json in it"
        )


@contextmanager
def _whole(directory: Path) -> Iterator[Path]:
    """A directory that appears only once everything in it has been written; an older one is replaced."""
    unfinished, old = (directory.with_name(f"{directory.name}.{state}") for state in ("unfinished", "old"))
    if old.exists() and not directory.exists():  # a kill came between the two renamings
        old.rename(directory)
    for left_over in (unfinished, old):
        shutil.rmtree(left_over, ignore_errors=True)
    unfinished.mkdir(parents=True)
    yield unfinished
    if directory.exists():
        directory.rename(old)
    unfinished.rename(directory)
    shutil.rmtree(old, ignore_errors=True)
