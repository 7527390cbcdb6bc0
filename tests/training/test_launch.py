"""`laconic-train` where its packages are missing: one line that says how to install them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from importlib.abc import MetaPathFinder

MISSING = sys.argv[1]


class NotInstalled(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, NotInstalled())
sys.argv = ["laconic-train", *sys.argv[2:]]
from training.launch import main

main()
"""


def run_without(missing: str, *arguments: str) -> list[str]:
    """The lines that the command prints to stderr."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, missing, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    return done.stderr.splitlines()


def test_a_missing_package_is_one_line() -> None:
    (line,) = run_without("typer", "--help")
    assert line.startswith("laconic-train: typer is not installed. In a checkout, scripts/install.sh all")


def test_a_package_that_only_a_stage_needs_is_one_line_as_well(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"name: mine\ndescription: d\nrun_dir: {tmp_path}/run\npublish_to: {tmp_path}/family\n")
    *_, line = run_without("reasoning_gym", "base", str(recipe))
    assert line.startswith("laconic-train: reasoning_gym is not installed.")


def test_the_help_is_shown_where_nothing_is_missing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "training.launch", "--help"], capture_output=True, text=True, check=True
    )
    assert "laconic-train" in done.stdout
