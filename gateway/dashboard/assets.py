"""Which files does the dashboard send to browsers? Its own, and the chart library of an installed package.

The library is uPlot. `youplot` carries it, and its code is never imported: two of its files are read and compared with
the hashes of uPlot's own releases, so that no other script gets into the page (decision 67). All files are under one
path that changes with them, so browsers keep them for good.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from models.files import MIB, read_bounded

log = logging.getLogger(__name__)

OWN = Path(__file__).parent / "static"
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
CARRIER = "youplot"
LIBRARY = {
    "uplot.js": ("vendor/uplot.iife.min.js", "2d27e8ad3d228164525ce213f9dc716f39b4e3aee0cc773fb3491c96cf4921a2"),
    "uplot.css": ("vendor/uplot.min.css", "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04"),
}
"""The names under which its files are served, where they are in the package, and their SHA-256 in uPlot 1.6.31."""
MAX_BYTES = MIB
INSTALL = "pip install 'laconic-gateway[dashboard]'"


@dataclass(frozen=True)
class Asset:
    """One file as it is sent."""

    content: bytes
    media_type: str


@dataclass(frozen=True)
class Assets:
    """All files by name. Pages are those that end in `.html`; the others are under `/dashboard/static/VERSION/`."""

    version: str
    files: dict[str, Asset]

    def page(self, name: str) -> bytes:
        """A page, with the path of the files in it."""
        return self.files[name].content.replace(b"{static}", f"/dashboard/static/{self.version}".encode())


def load(own: Path = OWN, library: dict[str, bytes] | None = None) -> Assets:
    """Read the files once. `library` has the chart library's; None reads the installed ones."""
    files = {path.name: path.read_bytes() for path in sorted(own.iterdir()) if path.suffix in TYPES}
    files |= installed_library() if library is None else library
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name} {len(content)} ".encode() + content)
    assets = {name: Asset(content, TYPES[Path(name).suffix]) for name, content in files.items()}
    return Assets(digest.hexdigest()[:16], assets)


def installed_library() -> dict[str, bytes]:
    """The chart library's files as installed; none, with a line in the log, if they are missing or not uPlot's."""
    spec = find_spec(CARRIER)  # which does not import it
    if spec is None or not spec.submodule_search_locations:
        log.warning("the dashboard has no charts, only tables; install them with: %s", INSTALL)
        return {}
    directory = Path(next(iter(spec.submodule_search_locations)))
    files: dict[str, bytes] = {}
    for name, (place, sha256) in LIBRARY.items():
        try:
            content = read_bounded(directory / place, MAX_BYTES)
        except OSError as error:
            log.warning("the dashboard has no charts: %s cannot be read (%s)", directory / place, error.strerror)
            return {}
        if hashlib.sha256(content).hexdigest() != sha256:
            log.warning("the dashboard has no charts: %s is not the file of uPlot that it should be", directory / place)
            return {}
        files[name] = content
    return files
