"""What does each stage of a run do, and which files does it write?

    base -> (cold-start) -> family -> evaluate -> profile -> publish

Every stage writes its artefact atomically. A stage is skipped if its artefact already exists and was made from the same
inputs (`training.job.record`); only publish always runs. base and family resume from their last complete checkpoint. So
after a kill at any moment, the same command continues the run.

    RUN/base/trained/          the base as it was trained          RUN/base/metrics.jsonl  the training's log
    RUN/base/model/            the base at its temperature         RUN/base/gate.json      whether it is fit
    RUN/base/cold-start.json   what a cold start changed (training.coldstart.stage has its other files)
    RUN/family/alpha-A/adapter the LoRA adapter, or model          RUN/family/alpha-A/metrics.jsonl, episodes.jsonl
                               (training.deciding.stage has its other files)
    RUN/evaluate/NAME.jsonl    outcomes on held-out prompts
    RUN/profile/NAME.jsonl     outcomes on validation prompts      RUN/profile/profile.json
    RUN/profile/NAME.budget-forced.jsonl  answers after thinking that a budget ended
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from models import family as manifest
from models.files import atomic_directory, write_json
from models.stored import SCHEMA_VERSION
from training import trainer
from training.base import gate, traces
from training.base import train as base_training
from training.base.tokenizer import build as build_tokenizer
from training.checks import check
from training.coldstart import stage as cold_starting
from training.config import Recipe, checkpoint_name
from training.deciding import stage as deciding
from training.errors import StageError
from training.job import checkpoints
from training.job.allocator import give_back_freed_memory
from training.job.record import fingerprint, is_up_to_date, require_up_to_date
from training.job.resume import exclusive_lock, processes
from training.measure import outcomes
from training.measure.drawing import draws
from training.precheck import PROFILE_SEED_OFFSET, check_target
from training.profile import crossfit, encoding, enough, fit
from training.publish import assemble
from training.recipe_base import BaseStage, PretrainedBase
from training.rollouts.params import SamplingParams
from training.tasks import outcome
from training.tasks.problems import DIFFICULTIES
from training.tasks.source import data_record, questions

_console = Console(stderr=True)
_NOT_THE_CHECKPOINT = {"alphas", "save_every", "micro_batch", "gradient_checkpointing", "dense", "deciding"}
"""Settings of the family stage that no checkpoint depends on, or that its record states otherwise."""
_AS_IT_WAS = {"lora_layers": "all", "questions": "all", "normalise_advantages": False, "overlong_window": 0}
"""Settings left out of the record at these values: it was so before they could be set."""


def base(recipe: Recipe) -> None:
    """Train the base, set its temperature, and measure whether it passes the gate.

    Raises:
        StageError: the base fails the gate. Names each figure that is out of range.
    """
    directory, stage = recipe.run_dir / "base", recipe.base
    if isinstance(stage, PretrainedBase):
        checkpoints.source_directory(stage)
        return
    with exclusive_lock(directory):
        if not is_up_to_date(directory / "trained", _trained_record(recipe, stage), hint_remove=directory):
            tokenizer = build_tokenizer(stage.vocabulary, recipe.seed)
            model = base_training.train(stage, tokenizer, recipe.seed, directory / "work")
            with atomic_directory(directory / "trained") as unfinished:
                model.save_pretrained(unfinished)
                tokenizer.save_pretrained(unfinished)
    if not is_up_to_date(directory / "model", _model_record(directory, stage)):
        model = checkpoints.load_model(directory / "trained")
        tokenizer = checkpoints.load_tokenizer(directory / "trained")
        base_training.fold_temperature(model, stage.temperature)
        with atomic_directory(directory / "model") as unfinished:
            # bfloat16 halves what is shipped. All later stages, the gate included, use the rounded weights.
            model.to(torch.bfloat16).save_pretrained(unfinished)
            tokenizer.save_pretrained(unfinished)
    if not is_up_to_date(directory / "gate.json", _gate_record(recipe, directory, stage)):
        write_json(directory / "gate.json", _measure_gate(recipe, stage.gate_prompts))
    _require_fit(recipe)


def cold_start(recipe: Recipe) -> None:
    """Teach a model that does not mark its thinking to do so, if the recipe says how."""
    if isinstance(recipe.base, PretrainedBase) and recipe.base.cold_start is not None:
        cold_starting.run(recipe)


def family(recipe: Recipe, alphas: Sequence[float] | None = None) -> None:
    """Train one checkpoint per alpha from the same base; with `alphas`, only these."""
    _require_base(recipe)
    check(recipe)
    for alpha in alphas or recipe.family.alphas:
        target = checkpoints.trained_path(recipe, checkpoint_name(alpha))
        with exclusive_lock(target.parent):
            _train_checkpoint(recipe, alpha, target)


def _train_checkpoint(recipe: Recipe, alpha: float, target: Path) -> None:
    """Reinforcement learning, and learning to decide before or after it; what is done already is kept."""
    settings, whole = recipe.family.deciding if alpha else None, family_record(recipe)
    if settings is None:
        steps = [(target, _reinforced_alone(whole), _reinforce)]
    elif settings.when == "after":
        steps = [(target.with_name("reinforced"), _reinforced_alone(whole), _reinforce), (target, whole, deciding.run)]
    else:
        steps = [(target.with_name("decided"), _decided(whole), deciding.run), (target, whole, _reinforce)]
    start: Path | None = None
    for path, made_from, make in steps:
        # Reinforcement learning resumes from what lies beside it, so that has to go, too.
        remove = target if start and make is not _reinforce else target.parent
        with processes().main_process_first():
            is_made = is_up_to_date(path, made_from, hint_remove=remove)
        if not is_made:
            make(recipe, alpha, start, path)
        elif path == target:
            _console.print(f"family: {target} is up to date")
        start = path


def _reinforced_alone(whole: Mapping[str, Any]) -> dict[str, Any]:
    """Of a family's record, that of a checkpoint that does not learn to decide, such as the one at alpha 0."""
    return {name: value for name, value in whole.items() if name not in ("deciding", "probe")}


def _decided(whole: Mapping[str, Any]) -> dict[str, Any]:
    """Of a family's record, that of a base that has learned to decide: nothing of the reinforcement learning."""
    own = {"seed", "data", "deciding", "dense", "probe", "max_tokens", "dtype", "base"}
    own |= {"tune", "lora_rank", "lora_layers"}
    return {name: value for name, value in whole.items() if name in own}


def family_record(recipe: Recipe) -> dict[str, Any]:
    """Everything that a trained checkpoint depends on, except its alpha."""
    stage, dense = recipe.family, recipe.family.dense_reward
    return {
        "training": trainer.VERSION,
        "seed": recipe.seed,
        "data": data_record(recipe.data),
        **stage.model_dump(exclude=_NOT_THE_CHECKPOINT | {k for k, v in _AS_IT_WAS.items() if getattr(stage, k) == v}),
        "dense": dense and dense.record,
        **({"deciding": stage.deciding.record, **recipe.probe_record} if stage.deciding else {}),
        "dtype": checkpoints.dtype(recipe),
        "base": fingerprint(checkpoints.base_directory(recipe)),
    }


def _reinforce(recipe: Recipe, alpha: float, start: Path | None, target: Path) -> None:
    """Train one checkpoint from `start`, or from the base.

    A function of its own, so that its memory is freed before the next one is trained.
    """
    model, tokenizer = checkpoints.load_to_train(recipe, start)
    count = recipe.family.steps * recipe.family.prompts_per_step
    if recipe.family.questions == "solved":
        prompts = cold_starting.solved(recipe, count)
    else:
        prompts = questions(recipe.data, "train", recipe.seed + 1, count)
    _console.print(f"family: training {checkpoint_name(alpha)}, {recipe.family.steps} steps")
    work = "work" if recipe.family.tune == "lora" else "work-of-model"
    work = target.with_name(f"{work}-of-decided" if start else work)  # each start has checkpoints of its own
    trained = trainer.train(model, tokenizer, recipe.family, prompts, alpha=alpha, seed=recipe.seed, work=work)
    if trained.accelerator.is_main_process:
        with atomic_directory(target) as unfinished:
            trained.accelerator.unwrap_model(trained.model).save_pretrained(unfinished)
            if recipe.family.tune == "full":
                tokenizer.save_pretrained(unfinished)
    trained.accelerator.wait_for_everyone()
    trained.accelerator.free_memory()
    del trained, model
    give_back_freed_memory()


def evaluate(recipe: Recipe) -> None:
    """Measure every checkpoint on held-out prompts."""
    _require_family(recipe)
    stage = recipe.evaluate
    prompts = questions(recipe.data, "heldout", recipe.seed, stage.prompts)
    params = outcomes.sampling_params(recipe, samples=stage.samples)
    with draws(recipe) as drawn:
        for name in checkpoints.names(recipe):
            path = outcomes.path_in(recipe.run_dir / "evaluate", name)
            outcomes.measure(recipe, name, prompts, path, params, draws=drawn)


def fit_profile(recipe: Recipe) -> None:
    """Measure every checkpoint on validation prompts and fit the difficulty profile on the outcomes."""
    _require_family(recipe)
    directory, stage = recipe.run_dir / "profile", recipe.profile
    prompts = questions(recipe.data, "validation", recipe.seed + PROFILE_SEED_OFFSET, stage.prompts)
    if few := enough.warning(len(prompts), "profile.prompts:"):
        _console.print(few, highlight=False, soft_wrap=True)
    encoder = encoding.load(None, "profile.encoder") if stage.encoder else None
    params = outcomes.sampling_params(recipe, samples=stage.samples)
    paths = {name: outcomes.path_in(directory, name) for name in checkpoints.names(recipe)}
    forced_paths = {name: outcomes.path_in(directory, name, budget_forced=True) for name in paths}
    forced = prompts[: stage.budget_forced_count]
    with draws(recipe) as drawn:
        for name, path in paths.items():
            outcomes.measure(recipe, name, prompts, path, params, surprisal=_can_escalate(name), draws=drawn)
            outcomes.measure_budget_forced(recipe, name, forced, forced_paths[name], draws=drawn)
    if is_up_to_date(directory / "profile.json", _profile_record(directory, paths, encoder=stage.encoder)):
        return
    measured = {name: outcome.load(path) for name, path in paths.items()}
    answers = {name: outcome.load_budget_forced(path) for name, path in forced_paths.items()}
    fitted = fit.fit(measured, answers, recipe.seed, encoder)
    _console.print("profile: certifying what keeps the base's quality", highlight=False, soft_wrap=True)
    held_out = list(crossfit.folds(measured, recipe.seed, encoder))
    fitted["floors"] = [floor.model_dump() for floor in crossfit.certified(held_out, "base", recipe.seed)]
    fit.save(fitted, directory / "profile.json")


def publish_family(recipe: Recipe, recipe_path: Path) -> None:
    """Assemble the directory of the family: checkpoints, manifest, profile, model card and plots."""
    target = check_target(recipe)
    _require_family(recipe)
    run, names, stage = recipe.run_dir, checkpoints.names(recipe), recipe.evaluate
    for name in names:
        params = outcomes.sampling_params(recipe, samples=stage.samples)
        profiled = {"prompts": recipe.profile.prompts, "samples": recipe.profile.samples}
        record = outcomes.record(recipe, name, params, prompts=stage.prompts)  # hashes all weights, so only once
        require_up_to_date(outcomes.path_in(run / "evaluate", name), record)
        surprisal = {"surprisal": True} if _can_escalate(name) else {}
        require_up_to_date(outcomes.path_in(run / "profile", name), record | profiled | surprisal)
        forced = {"prompts": recipe.profile.budget_forced_count, "samples": 1}
        require_up_to_date(outcomes.path_in(run / "profile", name, budget_forced=True), record | forced)
    require_up_to_date(
        run / "profile" / "profile.json", _profile_record(run / "profile", names, encoder=recipe.profile.encoder)
    )
    for name in names[1:]:
        if not (log := checkpoints.trained_path(recipe, name).with_name("metrics.jsonl")).exists():
            raise StageError(f"{log} is missing, and the card needs it: remove {log.parent} to train again")
    with atomic_directory(target) as unfinished:
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
    return {**made_from, "cut": stage.truncated}  # the old field name, so that existing records still match


def _model_record(directory: Path, stage: BaseStage) -> dict[str, Any]:
    return {"temperature": stage.temperature, "trained": fingerprint(directory / "trained")}


def _gate_record(recipe: Recipe, directory: Path, stage: BaseStage) -> dict[str, Any]:
    measured = {"seed": recipe.seed, "gate_prompts": stage.gate_prompts, "max_tokens": recipe.family.max_tokens}
    return {**measured, "base": fingerprint(directory / "model")}


def _profile_record(directory: Path, names: Iterable[str], *, encoder: bool) -> dict[str, Any]:
    files = [outcomes.path_in(directory, name, budget_forced=forced) for name in names for forced in (False, True)]
    return {"version": SCHEMA_VERSION, "encoder": encoder, **{file.name: fingerprint(file) for file in files}}


def _can_escalate(name: str) -> bool:
    """Whether an escalation may start with this checkpoint: not the base, nor the one trained at alpha 0."""
    return name not in ("base", checkpoint_name(0.0))


def _require_base(recipe: Recipe) -> None:
    """Raise unless the base exists, was made from this recipe, and has passed the gate."""
    _require_fit(recipe)
    if isinstance(recipe.base, PretrainedBase) and recipe.base.cold_start is not None:
        cold_starting.require(recipe)
    if isinstance(stage := recipe.base, BaseStage):
        directory = recipe.run_dir / "base"
        require_up_to_date(directory / "trained", _trained_record(recipe, stage), hint_remove=directory)
        require_up_to_date(directory / "model", _model_record(directory, stage))
        require_up_to_date(directory / "gate.json", _gate_record(recipe, directory, stage))


def _require_family(recipe: Recipe) -> None:
    """Raise unless base and checkpoints exist and were made from this recipe."""
    _require_base(recipe)
    whole = family_record(recipe)  # hashes the base's weights, so only once
    for alpha in recipe.family.alphas:
        trained = checkpoints.trained_path(recipe, checkpoint_name(alpha))
        require_up_to_date(trained, whole if alpha else _reinforced_alone(whole), hint_remove=trained.parent)


def _require_fit(recipe: Recipe) -> None:
    """Raise unless the base has passed the gate, or is pretrained."""
    stage = recipe.base
    if isinstance(stage, PretrainedBase):
        return
    directory = recipe.run_dir / "base"
    if not (directory / "gate.json").exists():
        raise StageError(f"{directory / 'gate.json'} is missing: run `laconic-train base` first")
    failures = json.loads((directory / "gate.json").read_text())["failures"]
    if failures and stage.gate_stops:
        raise StageError(
            "the base fails the gate: "
            + "; ".join(failures)
            + f". Change the section base of the recipe, then remove {directory};"
            + " if you change only the temperature, remove only model and gate.json in it"
        )
