from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway.commands.running import bare_environment


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare_environment(monkeypatch, tmp_path)
