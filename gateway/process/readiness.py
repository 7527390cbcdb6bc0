"""Is there an engine for every checkpoint? What `laconic serve` finds out before it says where it listens."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from gateway import services
from gateway.config import Settings
from gateway.engines.pool import Engines
from gateway.process.supervisor import StartError
from models.family import Family

LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Readiness:
    """Which checkpoints no engine serves, and why."""

    missing: Sequence[str] = ()
    report: Sequence[str] = ()
    """Lines that say what is wrong with which engine, and what to do."""

    @classmethod
    def of(cls, engines: Engines) -> Readiness:
        """What the engines' last probes say."""
        return cls(engines.missing, engines.report)

    def notice(self, family: Family) -> str:
        """What to tell the operator, in lines; empty if every checkpoint has an engine."""
        if not self.missing:
            return ""
        everything = len(self.missing) == len(family.checkpoints)
        what = f"anything of {family.name}" if everything else ", ".join(self.missing)
        lines = "".join(f"\n  {line}" for line in self.report)
        return f"No engine serves {what} yet:{lines}\nAn engine is used as soon as it is up; nothing needs a restart."


async def look(settings: Settings, family: Family) -> Readiness:
    """What one probe of every engine says."""
    async with _running(settings, family) as engines:
        return Readiness.of(engines)


async def wait(settings: Settings, family: Family, seconds: float) -> None:
    """Return when every checkpoint has an engine.

    Raises:
        StartError: that takes longer than so many seconds. The message says what is missing, and why.
    """
    console, began = Console(stderr=True), time.monotonic()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    sys.stderr.write(f"Waiting up to {seconds:.0f} s for an engine for every checkpoint\n")
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        line = progress.add_task("", total=None)
        async with _running(settings, family) as engines:
            while missing := engines.missing:
                if time.monotonic() - began > seconds:
                    notice = Readiness.of(engines).notice(family).rpartition("\n")[0]
                    raise StartError(f"wait_for_engines: {seconds:.0f} s are over. {notice}")
                ready = len(family.checkpoints) - len(missing)
                progress.update(line, description=f"with an engine: {ready} of {len(family.checkpoints)}")
                await asyncio.sleep(LOOK_SECONDS)


@asynccontextmanager
async def _running(settings: Settings, family: Family) -> AsyncGenerator[Engines]:
    engines = services.connect_engines(settings, family)
    await engines.start()
    try:
        yield engines
    finally:
        await engines.aclose()
