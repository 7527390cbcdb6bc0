"""What do the parts of `laconic-train` share? Reading a recipe, and failing in one line."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import typer

from training.config import Recipe, RecipeError
from training.config import load as load_recipe


def load(path: Path) -> Recipe:
    """The recipe in a file; ends the command if it cannot be used."""
    try:
        return load_recipe(path)
    except RecipeError as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """Say in one line why the command ends."""
    typer.echo(f"laconic-train: {message}", err=True)
    raise SystemExit(2)
