"""What did each reward buy? A report of an experiment's results: a page, its figures as JSON, and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from models.files import write_json, write_text
from training.experiments.arms import Arm, arms_of
from training.experiments.comparable import read_comparable
from training.experiments.experiment import Result
from training.experiments.page import page_of
from training.publish import plots


def write(results: Path, out: Path) -> None:
    """Write report.md, figures.json and the plots into `out`, from every results file in `results`.

    Raises:
        StageError: there are no results, or they cannot be compared. Says why.
    """
    by_recipe = read_comparable(results)
    arms = arms_of(by_recipe)
    figures = {arm.name: arm.figures for arm in arms}
    out.mkdir(parents=True, exist_ok=True)
    write_json(
        out / "figures.json",
        {name: {key: value and value.model_dump() for key, value in own.items()} for name, own in figures.items()},
    )
    plotted = {arm.name: (arm.recipe, figures[arm.name]) for arm in arms}
    first = next(iter(by_recipe.values()))[0]
    plots.arms(plotted, ("overall", *first.difficulties), out / "frontier.png")
    plots.checks(plotted, first.difficulties, out / "checks.png")
    pictures = _plot_episodes(by_recipe, out)
    write_text(out / "report.md", page_of(arms, figures, by_recipe, pictures))


def read_arms(results: Path) -> list[Arm]:
    """Every arm of the results in a directory, the base first.

    Raises:
        StageError: there are no results, or they cannot be compared. Says why.
    """
    return arms_of(read_comparable(results))


def _plot_episodes(by_recipe: Mapping[str, Sequence[Result]], out: Path) -> list[str]:
    """Plot the episodes of recipes with a dense reward; returns the pictures as Markdown."""
    dense = {
        name: [episode for result in seeds for episode in result.episodes]
        for name, seeds in by_recipe.items()
        if seeds[0].episodes
    }
    charged = {name: episodes for name, episodes in dense.items() if any(cost for *_, cost in episodes)}
    pictures: list[str] = []
    if dense:
        pictures.append("![gain by episode](gain-by-episode.png)")
        plots.gain_by_episode(dense, out / "gain-by-episode.png")
    if charged:
        pictures.append("![gain against compression](gain-against-compression.png)")
        plots.gain_against_compression(charged, out / "gain-against-compression.png")
    return pictures
