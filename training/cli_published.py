"""What can `laconic-train` do with a published family? Measure it, write its card again, make its base again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from models.family import Family, FamilyError
from models.family import load as load_family
from training.cli_common import fail, load
from training.config import LARGEST_SEED, Data
from training.tasks.problems import Split

if TYPE_CHECKING:
    from training.rollouts.params import SamplingParams
    from training.tasks.outcome import Graded
    from training.tasks.question import Question

app = typer.Typer()


@app.command()
def measure(
    family_dir: Annotated[Path, typer.Argument(metavar="FAMILY", help="The directory of a published family.")],
    checkpoint: Annotated[str, typer.Option(help="The checkpoint's name, e.g. base or alpha-0.2.")],
    split: Annotated[
        Split,
        typer.Option(help="Which prompts. No stage trains on heldout, but designs were compared on its seeds 0 to 2."),
    ] = "heldout",
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED - 1, help="Another seed draws other prompts.")] = 1,
    prompts: Annotated[int, typer.Option(min=1, help="Number of prompts.")] = 900,
    samples: Annotated[int, typer.Option(min=1, help="Samples per prompt.")] = 4,
    temperature: Annotated[float, typer.Option(min=0, help="Sampling temperature; 0 is greedy.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longer completions are truncated, and so incorrect.")] = 320,
    recipe: Annotated[
        Path | None,
        typer.Option(help="Use the questions and the dtype of this recipe; default: arithmetic and float32."),
    ] = None,
    served: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Measure through a running gateway, e.g. http://127.0.0.1:8080/v1."),
    ] = None,
) -> None:
    """Measure a checkpoint of a published family: accuracy and reasoning tokens with 95 % intervals, as JSON.

    With `--served`, no model is loaded. Requests go to the running gateway, and tokens are those of the responses'
    usage.

        laconic-train measure models/abacus --checkpoint alpha-0.2 --prompts 90
    """
    from training.measure import figures
    from training.rollouts.params import SamplingParams
    from training.tasks.source import questions

    published = _published(family_dir, checkpoint)
    loaded = load(recipe) if recipe else None
    drawn = questions(loaded.data if loaded else Data(), split, seed, prompts, wanted_by="--prompts")
    params = SamplingParams(max_tokens, temperature, samples, seed)
    if served:
        rows = _measured_over_http(served, published.served_name(checkpoint), drawn, params)
    else:
        from training.measure import published as measuring

        rows = measuring.sample_and_grade(family_dir, published, checkpoint, recipe=loaded, drawn=drawn, params=params)
    parts = {"overall": rows} | {d: [row for row in rows if row.difficulty == d] for d in figures.difficulties(rows)}
    typer.echo(json.dumps({part: figures.summarise(own, seed).model_dump() for part, own in parts.items()}, indent=1))


def _measured_over_http(url: str, model: str, drawn: Sequence[Question], params: SamplingParams) -> list[Graded]:
    from training.measure import outcomes, served

    with outcomes.bar(len(drawn) * params.samples, model) as progress:
        return asyncio.run(served.sample_and_grade(url, model, drawn, params, on_batch=progress))


@app.command()
def card(
    family_dir: Annotated[Path, typer.Argument(metavar="FAMILY", help="The directory of a published family.")] = Path(
        "models/abacus"
    ),
) -> None:
    """Write the model card and the plots of a published family again, from its own directory.

    Needs no run directory. The same directory gives the same bytes; the hashes in the manifest are updated.

        laconic-train card models/abacus
    """
    from training.publish import report as reporting

    try:
        reporting.write(family_dir)
    except FamilyError as error:
        fail(str(error))


@app.command()
def rebuild(
    family_dir: Annotated[Path, typer.Argument(metavar="FAMILY", help="The directory of a published family.")],
    base: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The model that it was made of: a directory, or a name on the hub."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="The model's commit on the hub.")] = None,
) -> None:
    """Make the base of a family again, from the public model that it was made of.

    A family may be passed on without its base's weights, which anybody can fetch. This fetches them, adds what the
    cold start has learned, and compares the result with the manifest. Then the family can be served.

        laconic-train rebuild models/qwen-coder --base bases/qwen2.5-coder-0.5b-instruct
    """
    from training.publish import rebuild as rebuilding

    try:
        made = rebuilding.rebuild(family_dir, base, revision)
    except FamilyError as error:
        fail(str(error))
    typer.echo(f"made {', '.join(made)}" if made else f"{family_dir} has all files of its base")


def _published(directory: Path, checkpoint: str) -> Family:
    """The family in a directory, which has this checkpoint."""
    try:
        published = load_family(directory)
        published.checkpoint(checkpoint)
    except FamilyError as error:
        fail(str(error))
    except KeyError:
        fail(f"--checkpoint: {checkpoint!r} is not one of {', '.join(c.name for c in published.checkpoints)}")
    return published
