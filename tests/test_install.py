"""Does `scripts/install.sh` make an environment that works, also where the last one does not?

Python and pip are scripts here: nothing is installed, and the shared environment is not touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYTHON = """#!/bin/sh
# A Python: `-m venv` copies it into an environment, as a link. Without python3-venv it has no pip then, and fails.
echo "$0 $*" >>"$CALLS"
case "$1 $2" in
    "-c import pip"*) [ -e "$(dirname "$0")/pip" ] ;;
    "-m venv")
        mkdir -p "$3/bin"
        ln -sf "$BASE" "$3/bin/python" && ln -sf "$BASE" "$3/bin/python3"
        echo "command = $BASE -m venv $PWD/$3" >"$3/pyvenv.cfg"
        [ -z "$NO_VENV" ] && touch "$3/bin/pip" ;;
esac
"""


class Checkout:
    """A checkout with the script, and the Python that it finds."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "checkout"
        self.base, self.calls = directory / "system" / "python3", directory / "calls"
        self.base.parent.mkdir(parents=True)
        for name in ("scripts/install.sh", "pyproject.toml", "models/forecast.c"):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.root / name)
        (self.root / "requirements").mkdir()
        (self.root / "requirements" / "gateway.txt").write_text("anyio==4\n")
        self.base.write_text(PYTHON)
        self.base.chmod(0o755)

    def install(self, *, venv_works: bool = True) -> subprocess.CompletedProcess[str]:
        self.calls.write_text("")
        path = f"{self.root / '.venv' / 'bin'}:{self.base.parent}:{os.environ['PATH']}"  # as in the Makefile
        known = {"BASE": str(self.base), "CALLS": str(self.calls), "NO_VENV": "" if venv_works else "1"}
        return subprocess.run(
            [self.root / "scripts" / "install.sh", "gateway"],
            env=known | {"PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def made(self) -> bool:
        """Whether the last install made an environment."""
        return "-m venv" in self.calls.read_text()

    @property
    def installed(self) -> bool:
        """Whether the last install installed this package."""
        return "--editable ." in self.calls.read_text()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_what_is_installed_already_is_left_alone(checkout: Checkout) -> None:
    first = checkout.install()
    assert (first.returncode, checkout.made, checkout.installed) == (0, True, True), first.stderr
    again = checkout.install()
    assert (again.returncode, checkout.made, checkout.installed) == (0, False, False)


def test_without_python3_venv_it_says_so_and_works_once_that_is_installed(checkout: Checkout) -> None:
    for _ in range(2):
        failed = checkout.install(venv_works=False)
        assert failed.returncode == 1
        assert "on Debian: apt-get install python3-venv" in failed.stderr
        assert not (checkout.root / ".venv").exists()
    assert checkout.install().returncode == 0
    assert checkout.installed


def test_half_an_environment_is_made_anew(checkout: Checkout) -> None:
    assert checkout.install().returncode == 0
    (checkout.root / ".venv" / "bin" / "pip").unlink()
    assert checkout.install().returncode == 0
    assert checkout.made
    assert checkout.installed


def test_an_environment_of_a_moved_checkout_is_made_anew(checkout: Checkout) -> None:
    assert checkout.install().returncode == 0
    checkout.root = checkout.root.rename(checkout.root.with_name("moved"))
    assert checkout.install().returncode == 0
    assert checkout.made
    assert checkout.installed


def test_an_environment_whose_python_is_gone_is_made_anew(checkout: Checkout) -> None:
    assert checkout.install().returncode == 0
    moved = checkout.base.parent.rename(checkout.base.parent.with_name("another-version"))
    checkout.base = moved / "python3"
    assert checkout.install().returncode == 0
    assert checkout.made
    assert checkout.installed


@pytest.mark.parametrize("line", ["uv = 0.9.0", "command = /usr/bin/python3.13 -m venv {root}/.venv"])
def test_an_environment_that_somebody_else_made_is_not_thrown_away(checkout: Checkout, line: str) -> None:
    python = checkout.root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    (checkout.root / ".venv" / "pyvenv.cfg").write_text(line.format(root=checkout.root) + "\n")
    has_pip = line.startswith("command")  # and is a version that is not supported
    python.write_text(f'#!/bin/sh\n[ "$2" = "import pip" ] && exit {int(not has_pip)}\nexit 1\n')
    python.chmod(0o755)
    refused = checkout.install()
    assert refused.returncode == 1
    assert "move it away" in refused.stderr
    assert python.exists()


def test_an_environment_that_somebody_made_with_a_prompt_is_used(checkout: Checkout) -> None:
    assert checkout.install().returncode == 0
    environment = checkout.root / ".venv"
    (environment / "install.log").unlink()
    (environment / "pyvenv.cfg").write_text(f'command = {checkout.base} -m venv --prompt="my env" {environment}\n')
    again = checkout.install()
    assert (again.returncode, checkout.made) == (0, False), again.stderr


def test_an_empty_directory_is_filled(checkout: Checkout) -> None:
    (checkout.root / ".venv").mkdir()
    assert checkout.install().returncode == 0
    assert checkout.installed


def test_a_shared_environment_is_used_and_if_it_does_not_work_only_the_link_to_it_is_removed(
    checkout: Checkout, tmp_path: Path
) -> None:
    assert checkout.install().returncode == 0
    shared = Checkout(tmp_path / "other")
    link = shared.root / ".venv"
    link.symlink_to(checkout.root / ".venv")
    assert shared.install().returncode == 0
    assert (shared.made, link.is_symlink()) == (False, True)
    (checkout.root / ".venv" / "bin" / "pip").unlink()
    assert shared.install().returncode == 0
    assert (shared.made, link.is_symlink()) == (True, False)
    assert (checkout.root / ".venv" / "bin" / "python").exists()
