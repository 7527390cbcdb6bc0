"""What does `laconic-train` say where its packages are not installed? One line, instead of a traceback."""

from __future__ import annotations

import sys


def main() -> None:
    """The command `laconic-train`."""
    try:
        from training.cli import main as command  # noqa: PLC0415 - its import is what may fail

        command()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("gateway", "models", "training"):
            raise
        sys.exit(
            f"laconic-train: {error.name} is not installed. In a checkout, scripts/install.sh all installs what"
            " training needs; elsewhere, pip install 'laconic-gateway[train]'"
        )


if __name__ == "__main__":
    main()
