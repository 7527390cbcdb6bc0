"""What does each stage of a run do, and what does it leave behind? base -> family -> evaluate -> profile -> publish.

Every stage writes its artefact whole or not at all and is skipped where the artefact stands already, made from the same
inputs (`training.record`); the two long ones also go on from their last complete checkpoint. So after a kill at any
moment the same command goes on.

    RUN/base/trained/          the base as it was trained          RUN/base/metrics.jsonl  the training's log
    RUN/base/model/            the base at its temperature         RUN/base/gate.json      whether it is fit
    RUN/family/alpha-A/adapter the LoRA adapter, or model          RUN/family/alpha-A/metrics.jsonl, episodes.jsonl
    RUN/evaluate/NAME.jsonl    outcomes on held-out prompts
    RUN/profile/NAME.jsonl     outcomes on test prompts            RUN/profile/profile.json
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from peft import PeftModel
from rich.console import Console
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from models import family as manifest
from training import base as base_training
from training import evaluate as measuring
from training import gate, planning, profile, publish, tokenizer, traces, trainer
from training.config import Architecture, BaseStage, DenseReward, PretrainedBase, Recipe, checkpoint_name
from training.episodes import THINK_END
from training.errors import StageError
from training.record import fingerprint, stands, write_json
from training.resume import processes
from training.tasks.problems import DIFFICULTIES
from training.tasks.question import Question
from training.tasks.source import questions
from training.tasks.verify import is_correct

FIT_SEED_OFFSET = 100
"""Keeps the seeds of profile prompts apart from the gate's."""
_console = Console(stderr=True)


def base(recipe: Recipe) -> None:
    """Train the base, then let the gate decide.

    Raises:
        StageError: the base fails the gate; names each figure.
    """
    directory, stage = recipe.run_dir / "base", recipe.base
    if isinstance(stage, PretrainedBase):
        base_directory(recipe)
        return
    not_the_training = {"temperature", "save_every", "gate_prompts", "gate_stops"}
    made_from = {"seed": recipe.seed, "traces": traces.VERSION, **stage.model_dump(exclude=not_the_training)}
    if not stands(directory / "trained", made_from, remove=directory):
        spoken = tokenizer.build(stage.vocabulary, recipe.seed)
        model = base_training.train(stage, spoken, recipe.seed, directory / "work")
        with _whole(directory / "trained") as unfinished:
            model.save_pretrained(unfinished)
            spoken.save_pretrained(unfinished)
    if not stands(
        directory / "model", {"temperature": stage.temperature, "trained": fingerprint(directory / "trained")}
    ):
        model, spoken = _load_model(directory / "trained"), _load_tokenizer(directory / "trained")
        base_training.fold_temperature(model, stage.temperature)
        with _whole(directory / "model") as unfinished:
            # Half the bytes to ship; everything downstream, the gate first, sees the rounded weights.
            model.to(torch.bfloat16).save_pretrained(unfinished)  # pyright: ignore[reportArgumentType]
            spoken.save_pretrained(unfinished)
    judged = {"seed": recipe.seed, "gate_prompts": stage.gate_prompts, "max_tokens": recipe.family.max_tokens}
    if not stands(directory / "gate.json", {**judged, "base": fingerprint(directory / "model")}):
        write_json(directory / "gate.json", _measure_gate(recipe, stage.gate_prompts))
    _require_fit(recipe)


def family(recipe: Recipe, alphas: Sequence[float] | None = None) -> None:
    """Train one checkpoint per alpha from the same base; only those of `alphas` where given."""
    _require_fit(recipe)
    check(recipe)
    kind = artefact(recipe)
    made_from = {
        "seed": recipe.seed,
        "data": _data_record(recipe),
        **recipe.family.model_dump(exclude={"alphas", "save_every", "micro_batch", "gradient_checkpointing", "dense"}),
        "dense": recipe.family.dense_reward and recipe.family.dense_reward.model_dump(exclude={"memory_gib"}),
        "dtype": _dtype(recipe),
        "base": fingerprint(base_directory(recipe)),
    }
    for alpha in alphas or recipe.family.alphas:
        directory = recipe.run_dir / "family" / checkpoint_name(alpha)
        with processes().main_process_first():
            done = stands(directory / kind, made_from, remove=directory)
        if done:
            _console.print(f"family: {directory / kind} stands already")
            continue
        _train(recipe, alpha, directory / kind)


def _train(recipe: Recipe, alpha: float, target: Path) -> None:
    """A function of its own, so that nothing of one alpha's training is left in memory when the next begins."""
    model, spoken = load_base(recipe)
    asked = questions(recipe.data, "train", recipe.seed + 1, recipe.family.steps * recipe.family.prompts_per_step)
    _console.print(f"family: training {checkpoint_name(alpha)}, {recipe.family.steps} steps")
    work = target.with_name("work" if target.name == "adapter" else "work-of-model")
    trained = trainer.train(model, spoken, recipe.family, asked, alpha=alpha, seed=recipe.seed, work=work)
    if trained.accelerator.is_main_process:
        with _whole(target) as unfinished:
            trained.accelerator.unwrap_model(trained.model).save_pretrained(unfinished)
            if recipe.family.tune == "full":
                spoken.save_pretrained(unfinished)
    trained.accelerator.wait_for_everyone()
    trained.accelerator.free_memory()
    del trained, model
    gc.collect()
    torch.cuda.empty_cache()


def evaluate(recipe: Recipe) -> None:
    """Measure every checkpoint on held-out prompts."""
    stage = recipe.evaluate
    asked = questions(recipe.data, "heldout", recipe.seed, stage.prompts)
    for name in names(recipe):
        path = outcomes_path(recipe.run_dir / "evaluate", name)
        _judge(recipe, name, asked, path, samples=stage.samples, temperature=stage.temperature)


def experiment(recipe: Recipe) -> None:
    """Train and measure the family of one reward; the base, which experiments share, is measured beside them once.

    On held-out prompts at temperature 1, with what the first episode was worth, and greedily.
    """
    if not isinstance(recipe.base, PretrainedBase):
        raise StageError("an experiment compares rewards on one base: name it in base.model")
    family(recipe)
    asked = questions(recipe.data, "heldout", recipe.seed, recipe.evaluate.prompts)
    dense = recipe.family.dense_reward or DenseReward()
    for name in names(recipe):
        directory = base_outcomes(recipe) if name == "base" else recipe.run_dir / "evaluate"
        sampled, greedy = outcomes_path(directory, name), outcomes_path(directory, name, greedy=True)
        _judge(recipe, name, asked, sampled, samples=recipe.evaluate.samples, temperature=1.0, first_episode=dense)
        _judge(recipe, name, asked, greedy, samples=1, temperature=0.0)


def base_outcomes(recipe: Recipe) -> Path:
    """Where the experiments of a seed keep the outcomes of their base."""
    return recipe.run_dir.parents[1] / "base" / recipe.run_dir.name


def outcomes_path(directory: Path, name: str, *, greedy: bool = False) -> Path:
    """Outcomes of one checkpoint; greedy ones have a file of their own."""
    return directory / (f"{name}.greedy.jsonl" if greedy else f"{name}.jsonl")


def fit_profile(recipe: Recipe) -> None:
    """Measure every checkpoint on test prompts and fit the difficulty profile on the outcomes."""
    directory, stage = recipe.run_dir / "profile", recipe.profile
    asked = questions(recipe.data, "test", recipe.seed + FIT_SEED_OFFSET, stage.prompts)
    for name in names(recipe):
        path = outcomes_path(directory, name)
        _judge(recipe, name, asked, path, samples=stage.samples, temperature=recipe.evaluate.temperature)
    made_from = {name: fingerprint(directory / f"{name}.jsonl") for name in names(recipe)}
    if stands(directory / "profile.json", made_from):
        return
    outcomes = {name: measuring.load(directory / f"{name}.jsonl") for name in names(recipe)}
    profile.save(profile.fit(outcomes, recipe.seed), directory / "profile.json")


def publish_family(recipe: Recipe, recipe_path: Path) -> None:
    """Assemble the family's directory: checkpoints, manifest, profile, model card and plots."""
    run, adapters = recipe.run_dir, [recipe.run_dir / "family" / name for name in names(recipe)[1:]]
    needed = [base_directory(recipe), run / "profile" / "profile.json"]
    needed += [directory / part for directory in adapters for part in (artefact(recipe), "metrics.jsonl")]
    needed += [run / "evaluate" / f"{name}.jsonl" for name in names(recipe)]
    if missing := [path for path in needed if not path.exists()]:
        raise StageError(f"{missing[0]} is missing; run the earlier stages first: laconic-train run {recipe_path}")
    target = check_target(recipe)
    with _whole(target) as unfinished:
        publish.assemble(recipe, recipe_path, base_directory(recipe), unfinished)
        manifest.load(unfinished)
    _console.print(f"published {target}")


def check_target(recipe: Recipe) -> Path:
    """Where the family is to be published; nothing is replaced there but an older family.

    Raises:
        StageError: `publish_to` is something else.
    """
    target = recipe.publish_to
    if target is None:
        raise StageError("publish_to: the recipe does not say where the family is to go")
    if target.exists() and not (
        target.is_dir() and (not any(target.iterdir()) or (target / manifest.MANIFEST).exists())
    ):
        raise StageError(f"publish_to: {target} is no family's directory, and publishing would replace it")
    return target


def load_checkpoint(directory: Path, checkpoint: manifest.Checkpoint, base_path: Path) -> PreTrainedModel:
    """A published checkpoint, ready to sample from; adapters are merged into the base."""
    if checkpoint.kind == "lora":
        return _with_adapter(_load_model(base_path), directory / checkpoint.path)
    return _load_model(directory / checkpoint.path)


def base_directory(recipe: Recipe) -> Path:
    """Where the run's base is; a model of the hub is fetched first.

    Raises:
        StageError: the base stage has not been run, or there is no such model.
    """
    stage, directory = recipe.base, recipe.run_dir / "base" / "model"
    if isinstance(stage, PretrainedBase):
        directory = Path(stage.model)
        if not directory.is_dir():
            try:
                directory = Path(snapshot_download(stage.model, revision=stage.revision))
            except (HfHubHTTPError, HFValidationError, OSError) as error:
                raise StageError(
                    f"base.model: {stage.model} is no directory here, and the Hugging Face Hub does not give it:"
                    f" {str(error).splitlines()[0]}"
                ) from None
    elif not directory.exists():
        raise StageError(f"{directory} is missing; run the base stage first: laconic-train base")
    return directory


def architecture(recipe: Recipe) -> Architecture:
    """The base's sizes: from the recipe, or from the model's own config.

    Raises:
        StageError: neither says.
    """
    stage = recipe.base
    if isinstance(stage, BaseStage):
        return planning.architecture(stage)
    if stage.architecture:
        return stage.architecture
    try:
        config = AutoConfig.from_pretrained(stage.model, revision=stage.revision)
        sizes = {name: getattr(config, name, None) for name in Architecture.model_fields}
        sizes["head_dim"] = sizes["head_dim"] or config.hidden_size // config.num_attention_heads
        return Architecture.model_validate(sizes)
    except (OSError, ValueError) as error:
        raise StageError(
            f"base.model: no config of {stage.model} is at hand ({str(error).splitlines()[0]});"
            " give its sizes in base.architecture"
        ) from None


def load_base(recipe: Recipe) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The run's base and its tokenizer.

    Raises:
        StageError: there is none, or its tokenizer does not mark thinking.
    """
    directory = base_directory(recipe)
    model, spoken = _load_model(directory, _dtype(recipe)), _load_tokenizer(directory)
    _require_markers(directory, spoken)
    return model, spoken


def artefact(recipe: Recipe) -> str:
    """What the directory of a trained checkpoint is called: an adapter, or a whole model."""
    return "adapter" if recipe.family.tune == "lora" else "model"


def _dtype(recipe: Recipe) -> str:
    return recipe.base.dtype if isinstance(recipe.base, PretrainedBase) else "float32"


def names(recipe: Recipe) -> list[str]:
    """Every checkpoint of the run, the base first."""
    return ["base", *(checkpoint_name(alpha) for alpha in recipe.family.alphas)]


@contextmanager
def bar(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """A progress bar over completions; the function it yields takes how many are done."""
    with tqdm(total=total, desc=what, unit="completion") as shown:

        def advance(done: int) -> None:
            shown.update(done - shown.n)

        yield advance


def _judge(
    recipe: Recipe,
    name: str,
    asked: Sequence[Question],
    path: Path,
    *,
    samples: int,
    temperature: float,
    first_episode: DenseReward | None = None,
) -> None:
    """Outcomes of one checkpoint on these prompts, unless they stand already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    trained = recipe.run_dir / "family" / name / artefact(recipe)
    if name != "base" and not trained.exists():
        raise StageError(f"{trained} is missing; run the family stage first: laconic-train family")
    made_from = {
        "seed": recipe.seed,
        "prompts": len(asked),
        "samples": samples,
        "temperature": temperature,
        "max_tokens": recipe.family.max_tokens,
        "data": _data_record(recipe),
        "dtype": _dtype(recipe),
        "first_episode": first_episode and first_episode.model_dump(include={"answer", "split_by", "max_episodes"}),
        "base": fingerprint(base_directory(recipe)),
        **({} if name == "base" else {"checkpoint": fingerprint(trained)}),
    }
    if stands(path, made_from):
        _console.print(f"{path} stands already")
        return
    if name != "base" and recipe.family.tune == "full":
        model, spoken = _load_model(trained, _dtype(recipe)), _load_tokenizer(trained)
    else:
        model, spoken = load_base(recipe)
        if name != "base":
            model = _with_adapter(model, trained)
    with bar(len(asked) * samples, f"{path.parent.name} {path.stem}") as progress:
        rows = measuring.judge(
            model,
            spoken,
            asked,
            samples=samples,
            temperature=temperature,
            max_tokens=recipe.family.max_tokens,
            seed=recipe.seed,
            on_batch=progress,
            first_episode=first_episode,
        )
    measuring.save(rows, path)


def _measure_gate(recipe: Recipe, count: int) -> dict[str, object]:
    model, spoken = load_base(recipe)
    seed = recipe.seed

    def measured(temperature: float) -> dict[str, gate.Figures]:
        with bar(count * len(DIFFICULTIES), f"gate, temperature {temperature:g}") as progress:
            return gate.measure(
                model,
                spoken,
                count=count,
                max_tokens=recipe.family.max_tokens,
                temperature=temperature,
                seed=seed,
                on_batch=progress,
            )

    return gate.report(measured(1.0), measured(0.0), count, seed)


def _require_fit(recipe: Recipe) -> None:
    if isinstance(recipe.base, PretrainedBase):
        return
    directory = recipe.run_dir / "base"
    if not (directory / "gate.json").exists():
        raise StageError(f"{directory / 'gate.json'} is missing; run the base stage first: laconic-train base")
    failures = json.loads((directory / "gate.json").read_text())["failures"]
    if failures and recipe.base.gate_stops:
        raise StageError(
            "the base is not fit for a family: "
            + "; ".join(failures)
            + f". Change the recipe's base section and remove {directory};"
            + " for another temperature only model and gate.json in it"
        )


def check(recipe: Recipe) -> None:
    """See that base and data are there and usable, before anything is computed.

    Raises:
        StageError: something is missing or malformed; names it.
    """
    if isinstance(recipe.base, PretrainedBase):
        directory = base_directory(recipe)
        _require_markers(directory, _load_tokenizer(directory))
        for pattern in ("*.safetensors", "tokenizer.json"):
            if not any(directory.glob(pattern)):
                raise StageError(f"{directory}: there is no {pattern}, which the published family needs")
    trainer.arguments(recipe.family, 0.0, recipe.seed, recipe.run_dir)
    if recipe.family.reward == "l2t":
        _require_rank(recipe)
    asked = questions(recipe.data, "train", recipe.seed + 1, recipe.family.steps * recipe.family.prompts_per_step)
    dense = recipe.family.dense_reward
    for question in asked[:100] if dense else ():
        if not is_correct(written := dense.answer.replace("{}", question.answer), question.answer):
            raise StageError(
                f"dense.answer: {written!r} would not be judged right though the answer is {question.answer!r}"
            )
    questions(recipe.data, "heldout", recipe.seed, recipe.evaluate.prompts)
    if recipe.publish_to:
        questions(recipe.data, "test", recipe.seed + FIT_SEED_OFFSET, recipe.profile.prompts)


def _require_rank(recipe: Recipe) -> None:
    sizes, dense = architecture(recipe), recipe.family.dense_reward
    most = min(sizes.hidden_size, sizes.intermediate_size)
    if dense and dense.proxy_rank > most:
        raise StageError(f"family.dense.proxy_rank: {dense.proxy_rank} is more than the model's layers have, {most}")


def _data_record(recipe: Recipe) -> dict[str, object]:
    """What the questions depend on: the files themselves, not where they lie."""
    data = recipe.data
    return {
        **data.model_dump(exclude={"path"}),
        "files": fingerprint(data.path) if data.path else None,
    }


def _require_markers(directory: Path, spoken: PreTrainedTokenizerBase) -> None:
    if THINK_END not in spoken.get_vocab():
        raise StageError(f"{directory}: its tokenizer has no token {THINK_END}, so where its thinking ends is unknown")


def _load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(directory)
    except (OSError, ValueError) as error:
        raise StageError(f"{directory}: no tokenizer ({str(error).splitlines()[0]})") from None


def _load_model(directory: Path, dtype: str = "float32") -> PreTrainedModel:
    try:
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
    except (OSError, ValueError) as error:
        raise StageError(f"{directory}: no model that transformers can load ({str(error).splitlines()[0]})") from None
    return model.to(processes().device)  # pyright: ignore[reportArgumentType]


def _with_adapter(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()  # pyright: ignore[reportCallIssue, reportReturnType]


@contextmanager
def _whole(directory: Path) -> Iterator[Path]:
    """A directory that appears only once everything in it has been written; an older one is replaced."""
    unfinished, old = (directory.with_name(f"{directory.name}.{state}") for state in ("unfinished", "old"))
    for left_over in (unfinished, old):
        shutil.rmtree(left_over, ignore_errors=True)
    unfinished.mkdir(parents=True)
    yield unfinished
    if directory.exists():
        directory.rename(old)
    unfinished.rename(directory)
    shutil.rmtree(old, ignore_errors=True)
