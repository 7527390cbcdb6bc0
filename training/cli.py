"""`laconic-train`: the command line of the training job."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from training import cli_published
from training.cli_common import fail, load
from training.config import LARGEST_SEED
from training.errors import StageError
from training.job.allocator import keep_freed_memory
from training.tasks.problems import Difficulty, Kind, Split

SHIPPED_RECIPE = Path("training/recipes/abacus.yaml")
RESULTS = Path("runs/experiments/results")
INTERRUPTED = 130
"""Exit status after Ctrl-C."""

app = typer.Typer(
    name="laconic-train",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="""Train one reasoning model into a family of checkpoints at several token budgets.

A recipe, a YAML file, goes in; a directory that `laconic serve` can serve comes out. In between are five stages. Each
is a command of its own, and each resumes after a kill:

**base** trains a base model from scratch, or checks an existing one; **family** trains one checkpoint per alpha by
reinforcement learning; **evaluate** measures accuracy and reasoning tokens on held-out prompts; **profile** fits the
difficulty profile that the gateway routes by; **publish** assembles the directory.

    laconic-train plan training/recipes/r1-distill-1.5b-lora.yaml

    laconic-train run training/recipes/abacus.yaml

    laconic-train measure models/abacus --checkpoint alpha-0.2 --prompts 90
""",
)

RecipePath = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE", help="The recipe, a YAML file; training/recipes/ has examples.", show_default=True
    ),
]


@app.command()
def run(
    recipe: RecipePath = SHIPPED_RECIPE,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Compute nothing: read the data, build the model without weights.")
    ] = False,
    gpus: Annotated[int, typer.Option(min=1, help="With --dry-run: number of processes, with one GPU each.")] = 1,
) -> None:
    """Run all five stages of a recipe, from the base to the published family.

    Finished stages are skipped, and interrupted ones resume. The family is written to the recipe's `publish_to`,
    everything else to its `run_dir`. With `--dry-run`, says what would be trained and which command starts it.

        laconic-train run training/recipes/abacus.yaml
    """
    loaded = load(recipe)
    if dry_run:
        from training import dry_run as rehearsal

        typer.echo("\n".join(rehearsal.lines(rehearsal.dry_run(loaded, recipe, gpus))))
        return
    from training import checks, precheck, stages

    precheck.check_target(loaded)
    checks.check(loaded)
    stages.base(loaded)
    stages.cold_start(loaded)
    stages.family(loaded)
    stages.evaluate(loaded)
    stages.fit_profile(loaded)
    stages.publish_family(loaded, recipe)


@app.command()
def base(recipe: RecipePath = SHIPPED_RECIPE) -> None:
    """Train the base from scratch and measure whether it passes the gate.

    Writes the model and the gate's figures to `base/` in the recipe's `run_dir`. If the recipe names an existing model
    in `base.model`, it is only looked up or downloaded.

        laconic-train base training/recipes/abacus.yaml
    """
    from training import stages

    stages.base(load(recipe))


@app.command("cold-start")
def cold_start(recipe: RecipePath) -> None:
    """Teach a model that does not mark its thinking to think between marks, before the family is trained from it.

    Samples the model's own answers to training questions, keeps right ones, and fine-tunes it on them. The recipe's
    `base.cold_start` says how. Writes samples, model and a report on what changed to `base/` in the `run_dir`.

        laconic-train cold-start my-recipe.yaml
    """
    from training.coldstart import stage

    stage.run(load(recipe))


@app.command()
def family(
    recipe: RecipePath = SHIPPED_RECIPE,
    alpha: Annotated[
        list[float] | None,
        typer.Option(help="Train only this alpha of the recipe; repeatable. Machines can share the alphas."),
    ] = None,
) -> None:
    """Train one checkpoint per alpha from the base, by reinforcement learning.

    Needs the base stage. Writes adapters or models and their logs to `family/` in the recipe's `run_dir`. Also runs
    under `accelerate launch`, on several GPUs.

        laconic-train family training/recipes/abacus.yaml --alpha 0.2
    """
    from training import stages

    loaded = load(recipe)
    if unknown := set(alpha or ()) - set(loaded.family.alphas):
        alphas = ", ".join(f"{a:g}" for a in loaded.family.alphas)
        fail(f"--alpha: {min(unknown):g} is not in {recipe}, which has {alphas}")
    stages.family(loaded, alpha)


@app.command()
def evaluate(recipe: RecipePath = SHIPPED_RECIPE) -> None:
    """Measure every checkpoint on held-out prompts.

    Needs the family stage. Writes the graded samples to `evaluate/` in the recipe's `run_dir`, a JSON line per prompt.

        laconic-train evaluate training/recipes/abacus.yaml
    """
    from training import stages

    stages.evaluate(load(recipe))


@app.command()
def profile(recipe: RecipePath = SHIPPED_RECIPE) -> None:
    """Measure every checkpoint on validation prompts and fit the difficulty profile.

    Needs the family stage. Writes the graded samples and `profile.json` to `profile/` in the recipe's `run_dir`.

        laconic-train profile training/recipes/abacus.yaml
    """
    from training import stages

    stages.fit_profile(load(recipe))


@app.command()
def publish(recipe: RecipePath = SHIPPED_RECIPE) -> None:
    """Assemble the directory of the family: checkpoints, manifest, profile, model card and plots.

    Needs the stages evaluate and profile. Replaces an older family in the recipe's `publish_to`, and nothing else.

        laconic-train publish training/recipes/abacus.yaml
    """
    from training import stages

    stages.publish_family(load(recipe), recipe)


@app.command()
def experiment(
    recipes: Annotated[list[Path], typer.Argument(metavar="RECIPE...", help="One recipe for each reward to compare.")],
    seed: Annotated[
        list[int], typer.Option(min=0, max=LARGEST_SEED - 1, help="Repeatable; each has a run directory of its own.")
    ] = [0, 1, 2],  # noqa: B006
    results: Annotated[
        Path, typer.Option(help="Directory for the results, a small file per recipe and seed.")
    ] = RESULTS,
) -> None:
    """Train and measure the families of several rewards from one base, over several seeds.

    Finished experiments are skipped, and interrupted ones resume, so several processes can share the recipes or seeds.
    `laconic-train report` compares the results.

        laconic-train experiment training/recipes/experiments/alpha.yaml training/recipes/experiments/l2t.yaml
    """
    from training.experiments import experiment as experimenting

    loaded = [load(path) for path in recipes]
    every = [recipe.with_seed(number) for number in seed for recipe in loaded]
    experimenting.check(every, results)
    for recipe in every:
        experimenting.run(recipe, results)


@app.command()
def report(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="The directory that `laconic-train experiment` wrote.")
    ] = RESULTS,
    out: Annotated[Path, typer.Option(help="Directory for report.md, figures.json and the plots.")] = RESULTS
    / "report",
) -> None:
    """Compare the rewards of `laconic-train experiment`: tables with intervals over seeds, and plots.

    laconic-train report runs/experiments/results --out report
    """
    from training.experiments import report as reporting

    reporting.write(results, out)


app.add_typer(cli_published.app)


@app.command()
def plan(
    recipe: RecipePath = SHIPPED_RECIPE,
    gpus: Annotated[int, typer.Option(min=1, help="Number of processes, with one GPU each.")] = 1,
    shard: Annotated[bool, typer.Option(help="Shard gradients and optimizer over the GPUs (ZeRO stage 2).")] = False,
    gpu_gib: Annotated[float, typer.Option(min=1, help="Memory of one GPU in GiB.")] = 80,
    tflops: Annotated[
        float,
        typer.Option(min=0.01, help="TFLOP/s that one GPU sustains: about 200 for an H100, 0.1 for a CPU core."),
    ] = 200,
    price: Annotated[float, typer.Option(min=0, help="Price of one GPU for an hour.")] = 3,
    prompt_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a long prompt; default: estimated from the recipe's questions.")
    ] = None,
) -> None:
    """Estimate memory, tokens and rough cost of a recipe's family before anything is spent.

    Refuses what `run` would refuse: data only after the tables. Needs no GPU, and no network if the base is a directory
    or the recipe has `base.architecture`.

        laconic-train plan training/recipes/r1-distill-7b.yaml --gpus 16 --shard
    """
    from rich.console import Console

    from training import plan as planning

    loaded = load(recipe)
    tables, refusal = planning.tables(
        loaded, gpus=gpus, shard=shard, gpu_gib=gpu_gib, tflops=tflops, price=price, prompt_tokens=prompt_tokens
    )
    for table in tables:
        Console().print(table)
    if refusal is not None:
        raise refusal


@app.command()
def prompts(
    split: Annotated[
        Split, typer.Option(help="train, validation (used by gate and profile) or heldout (only for evaluation).")
    ] = "heldout",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same prompts.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="Number of different prompts.")] = 100,
    task: Annotated[
        Kind | None, typer.Option(help="Only this kind of problem; default: the mix of the shipped family.")
    ] = None,
    difficulty: Annotated[Difficulty | None, typer.Option(help="Only this difficulty.")] = None,
) -> None:
    """Print questions of the shipped family's kind with their answers, as JSONL.

    A row has prompt, answer, task and difficulty. Use them to measure a served family with fresh questions.

        laconic-train prompts --split heldout --seed 7 --count 5
    """
    from training.tasks import prompts as source

    try:
        drawn = source.prompts(split, seed, count, task=task, difficulty=difficulty)
    except ValueError as error:
        fail(f"--{error}")
    for prompt in drawn:
        sys.stdout.write(json.dumps(prompt.as_row(), ensure_ascii=False) + "\n")


def main() -> None:
    """Entry point. Known failures end in one line instead of a traceback."""
    keep_freed_memory()
    try:
        app()
    except StageError as error:
        fail(str(error))
    except SystemExit as ended:
        if ended.code == INTERRUPTED:  # typer says nothing on Ctrl-C
            typer.echo(
                "laconic-train: interrupted. A stage goes on where it stopped: run the same command again", err=True
            )
        raise


if __name__ == "__main__":
    main()
