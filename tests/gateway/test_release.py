"""The release's version, which the command, the API and the document state alike."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

from gateway.release import VERSION

ROOT = Path(__file__).parents[2]


def test_the_distribution_has_the_project_s_name() -> None:
    assert metadata.metadata("laconic-gateway")["Name"] == "laconic-gateway"
    assert metadata.version("laconic-gateway") == VERSION


def test_pip_is_told_of_no_other_distribution() -> None:
    """`laconic` on PyPI is somebody else's."""
    texts = [
        *ROOT.glob("gateway/**/*.py"),
        *ROOT.glob("training/**/*.py"),
        ROOT / "README.md",
        *ROOT.glob("docs/**/*.md"),
    ]
    told = {match for text in texts for match in re.findall(r"pip install '?\"?(laconic[\w-]*)", text.read_text())}
    assert told == {"laconic-gateway"}
