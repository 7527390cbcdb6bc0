"""What does a published family consist of? Run directory in, a directory that `models.family.load` accepts out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from models import family
from models.family import Checkpoint, Family, Frontier, Reasoning
from models.files import hash_files
from training.base.tokenizer import ANSWER_PREFIX
from training.config import BaseStage, Data, DenseReward, Recipe, checkpoint_name
from training.job import metrics
from training.job.checkpoints import dtype
from training.measure import figures
from training.publish import card, plots
from training.tasks import outcome
from training.tasks.outcome import Graded

_MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "merges.txt")
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def assemble(recipe: Recipe, recipe_path: Path, base: Path, target: Path) -> None:
    """Write checkpoints, profile, plots, card and manifest into the empty directory `target`."""
    run, whole = recipe.run_dir, recipe.family.tune == "full"
    _copy(base, target / "base", _MODEL_FILES)
    alphas = {checkpoint_name(alpha): alpha for alpha in recipe.family.alphas}
    for name in alphas:
        if whole:
            _copy(run / "family" / name / "model", target / name, _MODEL_FILES)
        else:
            _copy(run / "family" / name / "adapter", target / name, _ADAPTER_FILES)
            _forget_where_the_base_was(target / name / "adapter_config.json")
    shutil.copy(run / "profile" / "profile.json", target / "profile.json")
    outcomes = {name: outcome.load(run / "evaluate" / f"{name}.jsonl") for name in ("base", *alphas)}
    checkpoints = [
        Checkpoint(
            name=name,
            alpha=alphas.get(name),
            kind=("full" if whole else "lora") if name in alphas else "base",
            path=name,
            files=hash_files(target, name),
            frontier=frontier(rows, recipe, recipe_path, name),
        )
        for name, rows in outcomes.items()
    ]
    (target / "report").mkdir()
    gate = None
    if (run / "base" / "gate.json").exists():
        gate = json.loads((run / "base" / "gate.json").read_text())
        (target / "report" / "gate.json").write_text(json.dumps(gate, indent=1) + "\n")
    plots.frontier(checkpoints, target / "report" / "frontier.png")
    plots.by_difficulty(checkpoints, target / "report" / "tokens-by-difficulty.png")
    logs = {name: run / "family" / name / "metrics.jsonl" for name in alphas}
    plots.training(logs, target / "report" / "training.png")
    made = Family(
        name=recipe.name,
        description=recipe.description,
        base="base",
        reference="base",
        reasoning=Reasoning(answer_prefix=_answer_prefix(recipe)),
        context_tokens=recipe.base.context_tokens,
        tokenizer="base/tokenizer.json",
        profile="profile.json",
        files={**hash_files(target, "profile.json"), **hash_files(target, "report")},
        checkpoints=tuple(checkpoints),
    )
    family.save(made, target)
    profile = json.loads((target / "profile.json").read_text())
    if isinstance(recipe.base, BaseStage):
        logs = {"base": run / "base" / "metrics.jsonl", **logs}
    minutes = {name: metrics.minutes(log) for name, log in logs.items()}
    text = card.write(made, recipe, recipe_path, gate=gate, profile=profile, minutes=minutes)
    (target / "README.md").write_text(text)


def frontier(rows: list[Graded], recipe: Recipe, recipe_path: Path, name: str) -> Frontier:
    """The figures of one checkpoint, with the command that measures them again; another seed takes other prompts."""
    stage, seed = recipe.evaluate, recipe.seed
    command = (
        f"laconic-train measure {recipe.publish_to} --checkpoint {name} --split heldout --seed {seed} "
        f"--prompts {stage.prompts} --samples {stage.samples} --temperature {stage.temperature:g} "
        f"--max-tokens {recipe.family.max_tokens}"
    )
    if recipe.data != Data() or dtype(recipe) != "float32":
        command += f" --recipe {recipe_path}"
    return Frontier(
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
    return (recipe.family.dense or DenseReward()).answer.partition("{}")[0]


def _copy(source: Path, target: Path, files: tuple[str, ...]) -> None:
    target.mkdir()
    for pattern in files:
        for file in source.glob(pattern):
            shutil.copy(file, target / file.name)


def _forget_where_the_base_was(adapter_config: Path) -> None:
    config = json.loads(adapter_config.read_text())
    config["base_model_name_or_path"] = "../base"
    config["target_modules"] = sorted(config["target_modules"])  # PEFT writes a set, in any order
    adapter_config.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
