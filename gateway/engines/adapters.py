"""Can an engine load an adapter that it lacks? vLLM loads adapters at runtime if its operator allows it.

The engine needs `VLLM_ALLOW_RUNTIME_LORA_UPDATING=True` in its environment and the flag `--enable-lora`. Otherwise it
answers 404, and the checkpoint stays missing until an engine is started with it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp

from gateway.engines.replica import Replica
from models import endpoint
from models.family import Family

log = logging.getLogger("laconic")

LOAD_TIMEOUT_SECONDS = 60.0
HOW_TO_LOAD = "; add it to the engine's --lora-modules, or set VLLM_ALLOW_RUNTIME_LORA_UPDATING=True there"
SHOWN_BYTES = 300
"""Of an engine's answer, for the log."""


class Loader:
    """Asks engines to load the adapters that they lack, once each time an engine comes up."""

    def __init__(self, family: Family, directory: Path) -> None:
        """`directory` is the family's directory as the engines see it."""
        self._base = family.base
        self._adapters = {c.name: c for c in family.checkpoints if c.kind == "lora"}
        self._family, self._directory = family, directory
        self._requested: set[tuple[str, str]] = set()
        """(engine URL, checkpoint) pairs that were requested since the engine came up."""

    def forget(self, url: str) -> None:
        """Forget what was requested of an engine that is down: the next engine at this URL may be a different one."""
        self._requested = {(engine, name) for engine, name in self._requested if engine != url}

    def wanted(self, url: str, serving: frozenset[str]) -> list[str]:
        """The adapters that an engine lacks and has not been asked to load since it came up."""
        if self._base is None or self._base not in serving:
            self.forget(url)
            return []
        return [name for name in self._adapters if name not in serving and (url, name) not in self._requested]

    async def load(self, http: aiohttp.ClientSession, replica: Replica, names: Sequence[str]) -> None:
        """Ask an engine to load these adapters. The next probe shows whether it did."""
        url, tls = replica.url, replica.client.tls or True
        for name in names:
            checkpoint = self._adapters[name]
            self._requested.add((url, name))
            body = {"lora_name": self._family.engine_name(name), "lora_path": str(checkpoint.place(self._directory))}
            timeout = aiohttp.ClientTimeout(total=LOAD_TIMEOUT_SECONDS)
            try:
                async with http.post(
                    f"{endpoint.api(url)}/load_lora_adapter",
                    json=body,
                    timeout=timeout,
                    allow_redirects=False,  # the engine must not choose who else gets the operator's headers
                    ssl=tls,
                    headers=replica.credentials.headers(url),
                ) as response:
                    text = await _shown(response.content.iter_any())
                    if response.status != 200:
                        response.close()  # what is left of its answer is not read
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                log.warning("engine %s could not be asked to load %s: %r", url, name, error)
            else:
                if response.status == 200:
                    log.info("engine %s loaded %s", url, name)
                else:
                    how = HOW_TO_LOAD if response.status == 404 else ""
                    log.warning(
                        "engine %s lacks %s and did not load it: %d %s%s", url, name, response.status, text, how
                    )


async def _shown(pieces: AsyncIterator[bytes]) -> str:
    """The beginning of an engine's answer, on one line and in ASCII."""
    text = b""
    async for piece in pieces:
        text += piece[:SHOWN_BYTES]
        if len(text) >= SHOWN_BYTES:
            break
    words = text[:SHOWN_BYTES].decode(errors="replace").split()
    return "".join(one if one.isprintable() else "?" for one in " ".join(words)).encode("ascii", "replace").decode()
