"""A holdout that arrives at the worst moment: while the ledger is read."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.ledger.ledger import HOLDOUTS, Ledger
from tests.conftest import RedisServer
from tests.gateway.entries import entry


def let_a_holdout_arrive_once_holdouts_are_read(
    monkeypatch: pytest.MonkeyPatch, server: RedisServer, state_dir: Path
) -> None:
    """Record one more holdout whenever all holdouts have been read."""
    xrange = Redis.xrange

    async def read(self: Redis, name: str, *args: Any, **options: Any) -> Any:
        page = await xrange(self, name, *args, **options)
        if name == HOLDOUTS and not page:
            late = Ledger(server.url, state_dir / "late")
            await late.start()
            late.put(entry(time=time.time(), decision="holdout", checkpoint="base", choice="alpha-0.2"))
            await late.aclose()
        return page

    monkeypatch.setattr(Redis, "xrange", read)
