"""Does the page get the files that it should, and no script that somebody else has put there?"""

from __future__ import annotations

import re
from importlib.metadata import files
from pathlib import Path

import pytest

from gateway.dashboard import assets


def test_the_chart_library_is_installed_and_is_uplots() -> None:
    library = assets.installed_library()
    assert library.keys() == {"uplot.js", "uplot.css"}
    assert b"uPlot (v1.6.31)" in library["uplot.js"]


def test_a_changed_library_is_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    package = tmp_path / "changed"
    for name, (place, _) in assets.LIBRARY.items():
        (package / place).parent.mkdir(parents=True, exist_ok=True)
        (package / place).write_bytes(assets.installed_library()[name] + b" ")
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(assets, "CARRIER", "changed")
    assert assets.installed_library() == {}
    assert "is not the file of uPlot" in caplog.text


def test_without_the_library_the_log_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(assets, "CARRIER", "not_installed_anywhere")
    loaded = assets.load()
    assert "uplot.js" not in loaded.files
    assert assets.INSTALL in caplog.text


def test_the_version_changes_with_every_file(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text("1")
    first = assets.load(tmp_path, {})
    assert assets.load(tmp_path, {}).version == first.version
    assert assets.load(tmp_path, {"uplot.js": b"x"}).version != first.version
    (tmp_path / "a.js").write_text("2")
    assert assets.load(tmp_path, {}).version != first.version


def test_pages_refer_to_files_that_exist() -> None:
    loaded = assets.load()
    for name in ("page.html", "login.html"):
        page = loaded.page(name).decode()
        named = re.findall(rf'"/dashboard/static/{loaded.version}/([^"]+)"', page)
        assert named
        assert set(named) <= loaded.files.keys()
        assert "{static}" not in page


def test_scripts_import_files_that_exist() -> None:
    loaded = assets.load()
    for name, asset in loaded.files.items():
        if name.endswith(".js") and name != "uplot.js":
            imported = re.findall(r'from "\./([^"]+)"', asset.content.decode())
            assert set(imported) <= loaded.files.keys()


def test_nothing_comes_from_elsewhere_and_nothing_is_inline() -> None:
    for path in assets.OWN.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, path.name
        assert "innerHTML" not in text, path.name
        if path.suffix == ".html":
            assert not re.search(r"<style|<script(?![^>]*src=)|\sstyle=|\son\w+=", text), path.name


def test_our_own_files_are_small() -> None:
    assert sum(path.stat().st_size for path in assets.OWN.iterdir()) < 200_000


def test_the_files_are_part_of_the_package() -> None:
    pyproject = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    assert 'gateway = ["dashboard/static/*"]' in pyproject
    assert files("youplot"), "the carrier is a distribution of its own"
