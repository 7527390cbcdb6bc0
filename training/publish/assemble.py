"""What does a published family consist of? From a run directory to a directory that `models.family.load` accepts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from models import family
from models.family import Checkpoint, Family, Measurements, Reasoning
from models.files import hash_files, sha256
from training.base.tokenizer import ANSWER_PREFIX
from training.config import Data, Recipe, checkpoint_name
from training.job import metrics
from training.job.checkpoints import dtype, source_directory
from training.job.planning import architecture, parameters
from training.measure import figures
from training.publish import provenance, report
from training.recipe_base import BaseStage, PretrainedBase
from training.tasks import outcome
from training.tasks.outcome import Graded

_MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "merges.txt")
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
COLD_START = "cold-start"
"""The directory of the adapter that made the base of a public model."""


def assemble(recipe: Recipe, recipe_path: Path, base: Path, target: Path) -> None:
    """Write checkpoints, profile, manifest, plots and card into the empty directory `target`."""
    run, alphas = recipe.run_dir, {checkpoint_name(alpha): alpha for alpha in recipe.family.alphas}
    _copy_models(recipe, base, target, alphas)
    shutil.copy(run / "profile" / "profile.json", target / "profile.json")
    (target / "report").mkdir()
    if (run / "base" / "gate.json").exists():
        shutil.copy(run / "base" / "gate.json", target / report.GATE)
    logs = {name: run / "family" / name / "metrics.jsonl" for name in alphas}
    provenance.save(_provenance(recipe, recipe_path, logs), target)
    outcomes = {name: outcome.load(run / "evaluate" / f"{name}.jsonl") for name in ("base", *alphas)}
    trained = "full" if recipe.family.tune == "full" else "lora"
    checkpoints = [
        Checkpoint(
            name=name,
            alpha=alphas.get(name),
            kind=trained if name in alphas else "base",
            path=name,
            files=hash_files(target, name),
            frontier=frontier(rows, recipe, recipe_path, name),
        )
        for name, rows in outcomes.items()
    ]
    manifest = Family(
        name=recipe.name,
        description=recipe.description,
        base="base",
        reference="base",
        reasoning=Reasoning(answer_prefix=_answer_prefix(recipe)),
        context_tokens=recipe.base.context_tokens,
        tokenizer="base/tokenizer.json",
        profile="profile.json",
        files=hash_files(target, "profile.json") | hash_files(target, COLD_START),
        checkpoints=tuple(checkpoints),
    )
    family.save(manifest, target)
    report.write(target)


def _copy_models(recipe: Recipe, base: Path, target: Path, names: Iterable[str]) -> None:
    """Copy the base, and the adapter or the whole model of every trained checkpoint."""
    _copy(base, target / "base", _MODEL_FILES)
    if (learned := recipe.run_dir / "base" / "adapter").exists():
        _copy(learned, target / COLD_START, _ADAPTER_FILES)
    for name in names:
        trained = recipe.run_dir / "family" / name
        if recipe.family.tune == "full":
            _copy(trained / "model", target / name, _MODEL_FILES)
        else:
            _copy(trained / "adapter", target / name, _ADAPTER_FILES)
            _normalise_adapter_config(target / name / "adapter_config.json")


def _provenance(recipe: Recipe, recipe_path: Path, logs: Mapping[str, Path]) -> provenance.Provenance:
    """How a run made its family; `logs` has the metrics file of every trained checkpoint."""
    base, dense = recipe.base, recipe.family.dense_reward
    trained_here = isinstance(base, BaseStage)
    timed = {"base": recipe.run_dir / "base" / "metrics.jsonl", **logs} if trained_here else logs
    return provenance.Provenance(
        recipe=str(recipe_path),
        pretrained=None if trained_here else base.model,
        parameters=parameters(architecture(base)) if trained_here else None,
        reward=recipe.family.reward,
        dense=dense and dense.record,
        minutes={name: round(sum(map(metrics.minutes, _stages_of(log)))) for name, log in timed.items()},
        curves={name: metrics.curves(log) for name, log in logs.items()},
        revision=None if trained_here else base.revision,
        weights={} if trained_here else weights_of(source_directory(base)),
        quantized=None if trained_here else _quantized(base),
        deciding=recipe.family.deciding and recipe.family.deciding.record,
    )


def _stages_of(log: Path) -> list[Path]:
    """The logs of one checkpoint: of its training, and of its learning to decide if it did."""
    return [log, *([deciding] if (deciding := log.with_name("deciding.jsonl")).exists() else [])]


def weights_of(source: Path) -> dict[str, str]:
    """SHA-256 of a model's weights, by file."""
    return {file.name: sha256(file) for file in sorted(source.glob("*.safetensors"))}


def _quantized(base: PretrainedBase) -> str | None:
    note = Path(base.model) / "QUANTIZED"
    return note.read_text().strip() if note.exists() else None


def frontier(rows: list[Graded], recipe: Recipe, recipe_path: Path, name: str) -> Measurements:
    """The measured figures of one checkpoint, and the command that measures them again.

    The same command with another seed draws other prompts.
    """
    stage, seed = recipe.evaluate, recipe.seed
    command = (
        f"laconic-train measure {recipe.publish_to} --checkpoint {name} --split heldout --seed {seed} "
        f"--prompts {stage.prompts} --samples {stage.samples} --temperature {stage.temperature:g} "
        f"--max-tokens {recipe.family.max_tokens}"
    )
    if recipe.data != Data() or dtype(recipe) != "float32":
        command += f" --recipe {recipe_path}"
    return Measurements(
        overall=figures.summarise(rows, seed),
        by_difficulty={
            d: figures.summarise([row for row in rows if row.difficulty == d], seed) for d in figures.difficulties(rows)
        },
        samples_per_prompt=stage.samples,
        temperature=stage.temperature,
        seed=seed,
        command=command,
    )


def _answer_prefix(recipe: Recipe) -> str:
    if isinstance(recipe.base, BaseStage):
        return ANSWER_PREFIX
    return recipe.probe.answer.partition("{}")[0]


def _copy(source: Path, target: Path, files: tuple[str, ...]) -> None:
    target.mkdir()
    for pattern in files:
        for file in source.glob(pattern):
            shutil.copy(file, target / file.name)


def _normalise_adapter_config(adapter_config: Path) -> None:
    """Point the adapter at the published base, and sort what PEFT writes in any order."""
    config = json.loads(adapter_config.read_text())
    config["base_model_name_or_path"] = "../base"
    config["target_modules"] = sorted(config["target_modules"])
    adapter_config.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
