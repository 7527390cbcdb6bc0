"""How do pages outside docs/ get into the site, and links between them? A hook of mkdocs.yml.

On disk and on a code host the links between README.md, docs/, benchmarks/ and the model card are relative paths. MkDocs
knows docs/ alone, so the other pages are added here and every link is rewritten to the place that its target has in the
site. A link to a file that is not a page, such as source code, becomes plain text. A broken link stays as it is, and
the strict build reports it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": "overview.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks/README.md",
    "models/abacus/README.md": "models/abacus/README.md",
}
"""Pages outside docs/, and where the site has them."""
PICTURES = ("benchmarks/results/*.png", "models/abacus/report/*.png")
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/ and their pictures."""
    outside = dict(PAGES) | {
        path.relative_to(ROOT).as_posix(): path.relative_to(ROOT).as_posix()
        for pattern in PICTURES
        for path in ROOT.glob(pattern)
    }
    for path, place in outside.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Point every relative link to where its target is in the site."""
    return rewrite(markdown, page.file.src_uri)


def rewrite(markdown: str, place: str) -> str:
    """The page at `place` in the site, with its links rewritten."""
    on_disk = {site: path for path, site in PAGES.items()}.get(place, f"docs/{place}")

    def link(match: re.Match[str]) -> str:
        picture, label, target = match.groups()
        path, hash_, anchor = target.partition("#")
        repository_path = posixpath.normpath(posixpath.join(posixpath.dirname(on_disk), path))
        if re.match(r"[a-z]+:|#|/", target) or not (ROOT / repository_path).exists():
            return match[0]  # MkDocs reports it if it is a broken link
        there = _in_site(repository_path)
        if there is None:
            return label
        return f"{picture}[{label}]({posixpath.relpath(there, posixpath.dirname(place) or '.')}{hash_}{anchor})"

    return _LINK.sub(link, markdown)


def _in_site(path: str) -> str | None:
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if any(Path(path).match(pattern) for pattern in PICTURES):
        return path
    return PAGES.get(path)
