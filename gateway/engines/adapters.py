"""Does an engine lack an adapter that it could load? vLLM takes them at runtime where its operator allows it.

That is `VLLM_ALLOW_RUNTIME_LORA_UPDATING=True` in its environment and `--enable-lora`; else it answers 404, and the
checkpoint stays missing until somebody starts an engine with it.
"""

from __future__ import annotations

import logging
from pathlib import Path

import aiohttp

from models.family import Family

log = logging.getLogger("laconic")

LOAD_TIMEOUT_SECONDS = 60.0


class Loader:
    """Asks engines for the adapters they lack, once for each time that an engine comes up."""

    def __init__(self, family: Family, directory: Path) -> None:
        """`directory` is where engines find the family."""
        self._base = family.base
        self._adapters = {c.name: c for c in family.checkpoints if c.kind == "lora"}
        self._family, self._directory = family, directory
        self._asked: set[tuple[str, str]] = set()

    def forget(self, url: str) -> None:
        """An engine is down, or something else answers in its place: what comes up there may be another one."""
        self._asked = {(engine, name) for engine, name in self._asked if engine != url}

    async def load(self, http: aiohttp.ClientSession, url: str, serves: frozenset[str]) -> None:
        """Ask an engine that serves the base for what it does not serve; the next probe sees what came of it."""
        if self._base not in serves:
            self.forget(url)
            return
        for name, checkpoint in self._adapters.items():
            if name in serves or (url, name) in self._asked:
                continue
            self._asked.add((url, name))
            body = {"lora_name": self._family.served_name(name), "lora_path": str(self._directory / checkpoint.path)}
            timeout = aiohttp.ClientTimeout(total=LOAD_TIMEOUT_SECONDS)
            try:
                async with http.post(f"{url}/v1/load_lora_adapter", json=body, timeout=timeout) as response:
                    said = (await response.read())[:300].decode(errors="replace").strip()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                log.warning("engine %s was to load %s: %r", url, name, error)
            else:
                if response.status == 200:
                    log.info("engine %s has loaded %s", url, name)
                else:
                    log.warning("engine %s lacks %s and did not load it: %d %s", url, name, response.status, said)
