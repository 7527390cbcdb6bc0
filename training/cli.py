"""`laconic-train`: the offline job's command line."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from training.config import LARGEST_SEED, Recipe, RecipeError
from training.config import load as load_recipe
from training.errors import StageError
from training.job.allocator import keep_freed_memory
from training.tasks.problems import Difficulty, Kind, Split

SHIPPED_RECIPE = Path("training/recipes/abacus.yaml")
RESULTS = Path("runs/experiments/results")

app = typer.Typer(
    name="laconic-train",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="""Turn one reasoning model into a family of checkpoints that think less the easier the question is.

A recipe (YAML) goes through five stages, each resumable after a kill at any moment and each a command of its own:

**base** train an overthinking base and let the gate judge it; **family** one checkpoint per alpha, by reinforcement
fine-tuning with a length reward or a dense one; **evaluate** accuracy and reasoning tokens on held-out prompts;
**profile** the difficulty profile the gateway routes by; **publish** the directory the gateway serves.

    laconic-train run training/recipes/abacus.yaml

    laconic-train prompts --split heldout --seed 7 --count 5

    laconic-train measure models/abacus --checkpoint alpha-0.2 --prompts 90
""",
)

RecipePath = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="YAML file; see training/recipes/.", show_default=True)
]


@app.command()
def run(recipe: RecipePath = SHIPPED_RECIPE) -> None:
    """Go through all stages; what is done already is skipped, what was cut short goes on."""
    from training import checks, stages

    loaded = _load(recipe)
    checks.check_target(loaded)
    checks.check(loaded)
    stages.base(loaded)
    stages.family(loaded)
    stages.evaluate(loaded)
    stages.fit_profile(loaded)
    stages.publish_family(loaded, recipe)


@app.command()
def base(recipe: RecipePath = SHIPPED_RECIPE) -> None:
    """Train the overthinking base from scratch and let the gate judge it."""
    from training import stages

    stages.base(_load(recipe))


@app.command()
def family(
    recipe: RecipePath = SHIPPED_RECIPE,
    alpha: Annotated[
        list[float] | None,
        typer.Option(help="Only this one of the recipe's alphas; repeatable. They are independent: share them out."),
    ] = None,
) -> None:
    """Train one checkpoint per alpha. Runs under `accelerate launch` too."""
    from training import stages

    loaded = _load(recipe)
    if unknown := set(alpha or ()) - set(loaded.family.alphas):
        _fail(
            f"--alpha: {min(unknown):g} is not one of {recipe}'s, {', '.join(f'{a:g}' for a in loaded.family.alphas)}"
        )
    stages.family(loaded, alpha)


@app.command()
def evaluate(recipe: RecipePath = SHIPPED_RECIPE) -> None:
    """Measure every checkpoint on held-out prompts."""
    from training import stages

    stages.evaluate(_load(recipe))


@app.command()
def profile(recipe: RecipePath = SHIPPED_RECIPE) -> None:
    """Measure every checkpoint on test prompts and fit the difficulty profile."""
    from training import stages

    stages.fit_profile(_load(recipe))


@app.command()
def publish(recipe: RecipePath = SHIPPED_RECIPE) -> None:
    """Assemble the family's directory: checkpoints, manifest, profile, card and plots."""
    from training import stages

    stages.publish_family(_load(recipe), recipe)


@app.command()
def card(
    family_dir: Annotated[Path, typer.Argument(metavar="FAMILY", help="A published family's directory.")] = Path(
        "models/abacus"
    ),
) -> None:
    """Write the model card and the plots of a published family again, from its own directory.

    No run directory is needed. The same directory gives the same bytes; the manifest's hashes are updated.
    """
    from models.family import FamilyError
    from training.publish import report as reporting

    try:
        reporting.write(family_dir)
    except FamilyError as error:
        _fail(str(error))


@app.command()
def experiment(
    recipes: Annotated[list[Path], typer.Argument(metavar="RECIPE...", help="One per reward to compare.")],
    seed: Annotated[
        list[int], typer.Option(min=0, max=LARGEST_SEED - 1, help="Repeatable; each has its own run directory.")
    ] = [0, 1, 2],  # noqa: B006
    results: Annotated[Path, typer.Option(help="Directory for one small file per recipe and seed.")] = RESULTS,
) -> None:
    """Train and measure the families of several rewards from one base; `report` compares them.

    What is done is skipped and what was cut short goes on, so several processes may share recipes or seeds out.
    """
    from training.experiments import experiment as experimenting

    loaded = [_load(path) for path in recipes]
    every = [recipe.with_seed(number) for number in seed for recipe in loaded]
    experimenting.check(every, results)
    for recipe in every:
        experimenting.run(recipe, results)


@app.command()
def report(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="What `experiment` has written.")] = RESULTS,
    out: Annotated[Path, typer.Option(help="Directory for report.md, the figures as JSON, and the plots.")] = RESULTS
    / "report",
) -> None:
    """Compare the rewards that `experiment` has trained: figures with intervals over seeds, plots, and words."""
    from training.experiments import report as reporting

    reporting.write(results, out)


@app.command()
def measure(
    family_dir: Annotated[Path, typer.Argument(metavar="FAMILY", help="A published family's directory.")],
    checkpoint: Annotated[str, typer.Option(help="Which checkpoint.")],
    split: Annotated[Split, typer.Option(help="Which prompts; nothing was ever tuned on heldout.")] = "heldout",
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED - 1, help="Another seed, other prompts.")] = 1,
    prompts: Annotated[int, typer.Option(min=1, help="How many.")] = 900,
    samples: Annotated[int, typer.Option(min=1, help="Samples per prompt.")] = 4,
    temperature: Annotated[float, typer.Option(min=0, help="Sampling temperature; 0 is greedy.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longer completions are cut off, and so incorrect.")] = 320,
    recipe: Annotated[
        Path | None,
        typer.Option(help="Take this recipe's questions, and its weights' dtype; default: arithmetic, float32."),
    ] = None,
    served: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Ask the family where it is served, e.g. http://127.0.0.1:8080/v1."),
    ] = None,
) -> None:
    """Measure a published checkpoint again: accuracy and reasoning tokens with 95 % intervals, as JSON.

    With --served no model is loaded: the running gateway is asked for the checkpoint, and its usage is counted.
    """
    from transformers import AutoTokenizer

    from models import family as manifest
    from training.config import Data
    from training.job import checkpoints
    from training.measure import evaluate as measuring
    from training.measure import figures, outcomes
    from training.measure import served as over_api
    from training.rollouts.params import SamplingParams
    from training.tasks.source import questions

    try:
        loaded = manifest.load(family_dir)
        chosen = loaded.checkpoint(checkpoint)
    except manifest.FamilyError as error:
        _fail(str(error))
    except KeyError:
        _fail(f"--checkpoint: {checkpoint!r} is not one of {', '.join(c.name for c in loaded.checkpoints)}")
    taken = _load(recipe) if recipe else None
    asked = questions(taken.data if taken else Data(), split, seed, prompts)
    params = SamplingParams(max_tokens, temperature, samples, seed)
    with outcomes.bar(len(asked) * samples, checkpoint) as progress:
        if served:
            rows = asyncio.run(
                over_api.sample_and_grade(served, loaded.served_name(checkpoint), asked, params, on_batch=progress)
            )
        else:
            base_path = family_dir / loaded.checkpoint(loaded.base).path
            model = checkpoints.load_published(
                family_dir, chosen, base_path, checkpoints.dtype(taken) if taken else "float32"
            )
            tokenizer = AutoTokenizer.from_pretrained(base_path)
            rows = measuring.sample_and_grade(model, tokenizer, asked, params, on_batch=progress)
    parts = {
        "overall": rows,
        **{d: [row for row in rows if row.difficulty == d] for d in figures.difficulties(rows)},
    }
    figures = {
        part: figures.summarise(chosen_rows, seed).model_dump() for part, chosen_rows in parts.items() if chosen_rows
    }
    typer.echo(json.dumps(figures, indent=1))


@app.command()
def plan(
    recipe: RecipePath = SHIPPED_RECIPE,
    gpus: Annotated[int, typer.Option(min=1, help="Processes, one GPU each.")] = 1,
    shard: Annotated[bool, typer.Option(help="Gradients and optimizer divided over the GPUs (ZeRO stage 2).")] = False,
    gpu_gib: Annotated[float, typer.Option(min=1, help="Memory of one GPU.")] = 80,
    tflops: Annotated[float, typer.Option(min=0.01, help="TFLOP/s that one GPU sustains; an H100 about 200.")] = 200,
    price: Annotated[float, typer.Option(min=0, help="Of one GPU for an hour.")] = 3,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Of a long prompt.")] = 256,
) -> None:
    """Reckon memory, tokens and rough cost of a recipe's family, before anything is spent."""
    from rich.console import Console

    from training.job import checkpoints, planning

    loaded = _load(recipe)
    if (rollouts := loaded.family.prompts_per_step * loaded.family.rollouts) < gpus:
        _fail(f"--gpus: {gpus} processes cannot share the {rollouts} rollouts of a step")
    reckoned = planning.estimate(
        loaded, checkpoints.architecture(loaded), gpus=gpus, prompt_tokens=prompt_tokens, shard=shard
    )
    for table in planning.tables(reckoned, gpus=gpus, gpu_gib=gpu_gib, tflops=tflops, price=price):
        Console().print(table)


@app.command()
def prompts(
    split: Annotated[
        Split, typer.Option(help="train, test (gate and profile) or heldout (evaluation only).")
    ] = "heldout",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same prompts.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="How many different prompts.")] = 100,
    task: Annotated[
        Kind | None, typer.Option(help="One kind of problem only; default: the shipped family's mix.")
    ] = None,
    difficulty: Annotated[Difficulty | None, typer.Option(help="One difficulty only.")] = None,
) -> None:
    """Print prompts as JSONL (prompt, answer, task, difficulty), to measure a served family with fresh questions."""
    from training.tasks import prompts as source

    try:
        found = source.prompts(split, seed, count, task=task, difficulty=difficulty)
    except ValueError as error:
        _fail(f"--{error}")
    for prompt in found:
        sys.stdout.write(json.dumps(prompt.as_row(), ensure_ascii=False) + "\n")


def main() -> None:
    """Entry point: known failures end in one line, not in a traceback."""
    keep_freed_memory()
    try:
        app()
    except StageError as error:
        _fail(str(error))


def _load(path: Path) -> Recipe:
    try:
        return load_recipe(path)
    except RecipeError as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    typer.echo(f"laconic-train: {message}", err=True)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
