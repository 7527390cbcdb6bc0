"""Does a machine get a Chromium for the tests of the dashboard, and hear what to do if it cannot?"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from scripts import browser


def test_the_chosen_one_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LACONIC_CHROMIUM", "/opt/chromium")
    assert [*browser.candidates()] == ["/opt/chromium"]


def test_playwrights_own_comes_first_and_the_unpacked_one_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LACONIC_CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(browser, "OWN", tmp_path / "own")
    assert [*browser.candidates()] == [None]
    (tmp_path / "own").mkdir()
    for file in (tmp_path / "chromium", tmp_path / "own" / "chromium"):
        file.write_text("")
        file.chmod(0o755)
    assert [*browser.candidates()] == [None, str(tmp_path / "chromium"), str(tmp_path / "own" / "chromium")]


def test_only_the_unpacked_one_gets_its_libraries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(browser, "OWN", tmp_path)
    assert browser.environment(None) is browser.environment("/usr/bin/chromium") is None
    own = browser.environment(str(tmp_path / "chromium"))
    assert own is not None
    assert own["LD_LIBRARY_PATH"] == str(tmp_path / "al2023/lib")


class Machine:
    """Ways to get a browser, the last of which works if `works`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, works: bool) -> None:
        self.tried: list[str] = []
        self._has_one, self._works = False, works
        monkeypatch.setattr(browser, "WAYS", (self.unreachable, self.useless, self.last))
        monkeypatch.setattr(browser, "find", self.find)

    def find(self) -> tuple[str] | None:
        return ("/usr/bin/chromium",) if self._has_one else None

    def unreachable(self) -> None:
        self.tried.append("unreachable")
        raise subprocess.CalledProcessError(1, "install", b"getaddrinfo\nENOTFOUND cdn.example")

    def useless(self) -> None:
        self.tried.append("useless")

    def last(self) -> None:
        self.tried.append("last")
        self._has_one = self._works


def test_each_way_is_tried_until_one_works(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    machine = Machine(monkeypatch, works=True)
    browser.main()
    assert machine.tried == ["unreachable", "useless", "last"]
    said = capsys.readouterr().err
    assert "that failed: ENOTFOUND cdn.example" in said
    assert "/usr/bin/chromium starts" in said


def test_without_any_the_advice_is_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, works=False)
    with pytest.raises(SystemExit, match="LACONIC_CHROMIUM"):
        browser.main()
    assert machine.tried == ["unreachable", "useless", "last"]
