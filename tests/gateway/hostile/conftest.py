from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import RedisServer
from tests.gateway.fakes import FakeEngine, Gateway
from tests.gateway.hostile.harness import impatient_gateway


@pytest.fixture
async def impatient(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path
) -> AsyncIterator[Gateway]:
    """A gateway with short timeouts in front of `engine`, whose caller has a key with limits."""
    async with impatient_gateway(family_dir, redis_server.url, engine.url, tmp_path) as gateway:
        yield gateway
