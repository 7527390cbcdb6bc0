"""What the tests of faults share: an impatient gateway, and the check that a request left nothing behind."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.access import keys
from gateway.access.keys import Grant
from tests.conftest import RedisServer
from tests.gateway.access.test_limits import redis_state
from tests.gateway.fakes import (
    EASY,
    FakeEngine,
    Gateway,
    running,
    until,
)

CHAT = {"model": "abacus", "messages": [{"role": "user", "content": EASY}]}
QUICK = {"first_token_timeout_seconds": 0.3, "idle_timeout_seconds": 0.3, "send_timeout_seconds": 0.3}


@asynccontextmanager
async def impatient_gateway(
    family_dir: Path, redis_url: str, engine_url: str, state_dir: Path
) -> AsyncIterator[Gateway]:
    """A gateway with short timeouts, whose caller has a key with limits."""
    async with running(family_dir, redis_url, [engine_url], state_dir=state_dir, **QUICK) as gateway:
        secret, _ = await keys.create(
            gateway.keyring.redis, Grant(name="team-a", reasoning_tokens_per_day=10**9, requests_per_minute=10**9)
        )
        await gateway.keyring.refresh()
        gateway.client.headers["authorization"] = f"Bearer {secret}"
        yield gateway


async def assert_nothing_is_left(gateway: Gateway, engine: FakeEngine, server: RedisServer) -> None:
    """No request at the engine, no token reserved, no task that belongs to a request."""
    await until(lambda: engine.running == 0)
    await until(lambda: not any(gateway.engines.in_flight.values()) and gateway.limiter.reserved == 0)
    await until(lambda: redis_state(server).get("reserved") == 0)
    gc.collect()
    names = {task.get_coro().__qualname__ for task in asyncio.all_tasks()}  # type: ignore[union-attr]
    assert not {name for name in names if name.startswith(("ChatEndpoint.", "Caller.", "RelayedStream."))}
