"""Do the documents agree with the repository? Links, anchors, the tree, the HTTP reference and the example."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import pytest

from gateway import openapi
from gateway.config import shipped_family
from gateway.release import VERSION
from gateway.request import browsers
from models import family, profile
from scripts import http_reference, layers, site

ROOT = Path(__file__).parent.parent
OUTSIDE = ("README.md", "CHANGELOG.md", "benchmarks/README.md", "models/abacus/README.md")
PAGES = sorted([*(ROOT / name for name in OUTSIDE), *(ROOT / "docs").rglob("*.md")])
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors that a code host and MkDocs give a page's headings."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.MULTILINE)
    texts = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return frozenset(re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", text.strip().lower())) for text in texts)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_resolves(page: Path) -> None:
    broken: list[str] = []
    for target in _LINK.findall(_FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def prose_of(page: Path) -> str:
    """A page without code, comments and the targets of links."""
    not_prose = r"`[^`\n]*`|<!--.*?-->|\]\([^)]*\)|^ {4}[^\n]*$"
    return re.sub(not_prose, "", _FENCE.sub("", page.read_text()), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_decimal_has_its_zero(page: Path) -> None:
    assert re.findall(r"(?<![\w.])\.\d+", prose_of(page)) == []


@pytest.mark.parametrize("page", sorted((ROOT / "docs/decisions").glob("0*.md")), ids=name_of)
def test_a_decision_is_half_a_page(page: Path) -> None:
    words = [word for word in page.read_text().split() if re.search(r"\w", word)]
    assert len(words) <= 400


def rooms(package: str) -> list[str]:
    """What `ls` shows of a package: modules, and directories that are rooms."""
    entries = [entry for entry in (ROOT / package).iterdir() if not entry.name.startswith("_")]
    return sorted(entry.stem if entry.suffix == ".py" else f"{entry.name}/" for entry in entries)


def part_of(text: str, heading: str) -> str:
    """The lines that follow a line which starts with the heading, up to the next line that is not indented."""
    match = re.search(rf"^{re.escape(heading)}.*\n(?:[ \t].*\n)*", text, re.MULTILINE)
    assert match is not None, heading
    return match[0]


@pytest.mark.parametrize("package", ["gateway", "training"])
def test_the_readme_names_every_room(package: str) -> None:
    tree = part_of((ROOT / "README.md").read_text(), f"{package}/")
    missing = [room for room in rooms(package) if not re.search(rf"(?<![\w/]){re.escape(room)}(?!\w)", tree)]
    assert missing == []


@pytest.mark.parametrize("package", ["gateway", "training"])
def test_the_readme_names_no_room_that_does_not_exist(package: str) -> None:
    tree = part_of((ROOT / "README.md").read_text(), f"{package}/")
    named = re.findall(r"^  ([a-z_]+/)", tree, re.MULTILINE)
    assert set(named) <= set(rooms(package))


def test_the_readme_names_every_directory() -> None:
    tree = (ROOT / "README.md").read_text().partition("## Repository layout")[2]
    shown = [path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))]
    ignored = (ROOT / ".gitignore").read_text().split()
    tracked = [path.name for path in shown if f"/{path.name}/" not in ignored and not path.name.endswith(".egg-info")]
    assert [name for name in tracked if f"\n{name}/" not in tree] == []


@pytest.mark.parametrize("package", ["gateway", "training"])
def test_the_structure_names_every_room(package: str) -> None:
    text = (ROOT / "docs/structure.md").read_text()
    missing = [room for room in rooms(package) if f"`{package}/{room}" not in text]
    assert missing == []


def test_the_structure_names_no_file_that_does_not_exist() -> None:
    text = (ROOT / "docs/structure.md").read_text()
    named = re.findall(r"`((?:gateway|training|models|benchmarks)/[\w./-]*)`", text)
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_openapi_document_is_the_gateways() -> None:
    document = openapi.document(family.load(shipped_family(), verify=False), VERSION)
    assert json.loads((ROOT / "docs/openapi.json").read_text()) == document


def test_each_line_of_the_walks_names_files_of_its_room() -> None:
    rows = re.findall(r"^\| \d+ \| `([\w./]+)` \| (.+) \|$", (ROOT / "docs/structure.md").read_text(), re.MULTILINE)
    assert len(rows) > 20
    named = [(ROOT / room / file).relative_to(ROOT) for room, what in rows for file in re.findall(r"`(\w+\.py)`", what)]
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_http_reference_is_written_from_the_openapi_document() -> None:
    document = json.loads((ROOT / "docs/openapi.json").read_text())
    assert (ROOT / "docs/http.md").read_text() == http_reference.render(document)


def test_a_page_may_read_every_response_header_that_the_gateway_documents() -> None:
    page = (ROOT / "docs/gateway.md").read_text().partition("## Response headers")[2].partition("\n## ")[0]
    listed = set(re.findall(r"`(x-laconic-[a-z-]+)`", page))
    assert len(listed) > 8
    assert listed - {"x-laconic-debug"} <= set(browsers.EXPOSED_HEADERS.split(", "))


def test_the_example_of_the_models_package_runs() -> None:
    page = (ROOT / "docs/models.md").read_text()
    lines = re.findall(r"^    (.+)$", page, re.MULTILINE)
    names: dict[str, object] = {}
    exec("\n".join(lines).replace('Path("models/abacus")', f"Path({str(ROOT / 'models/abacus')!r})"), names)
    assert names["family"] is family
    assert names["profile"] is profile


@pytest.mark.parametrize(
    ("place", "link", "expected"),
    [
        ("how-to/scale.md", "[b](../../benchmarks/README.md#benchmarks)", "[b](../benchmarks/README.md#benchmarks)"),
        ("overview.md", "![a\nb](docs/images/laconic.svg)", "![a\nb](images/laconic.svg)"),
        ("benchmarks/README.md", "![p](results/gateway.png)", "![p](results/gateway.png)"),
        ("gateway.md", "[code](../gateway/chat.py)", "code"),
        ("gateway.md", "[missing](missing.md)", "[missing](missing.md)"),
        ("gateway.md", "[absolute](/etc/hosts)", "[absolute](/etc/hosts)"),
        ("gateway.md", "[host](https://example.org/README.md)", "[host](https://example.org/README.md)"),
    ],
)
def test_links_are_rewritten_for_the_site(place: str, link: str, expected: str) -> None:
    assert site.rewrite(link, place) == expected


def test_the_picture_of_the_layers_is_drawn_from_the_contracts() -> None:
    assert layers.PICTURE.read_text() == layers.draw()
