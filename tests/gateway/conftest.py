from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import certifi
import pytest

from models import family as families
from models.family import Family
from tests.conftest import RedisServer
from tests.gateway.fakes import FakeEngine, Gateway, build_family, running


@pytest.fixture(autouse=True, scope="package")
def _one_authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trust one authority instead of 150. Every gateway and client reads them, and none here asks a server with TLS."""
    end = "-----END CERTIFICATE-----\n"
    file = tmp_path_factory.mktemp("authorities") / "one.pem"
    file.write_text(Path(certifi.where()).read_text().partition(end)[0] + end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(file))
        patch.delenv("SSL_CERT_DIR", raising=False)
        yield


@pytest.fixture(autouse=True)
def _process_as_it_was() -> Iterator[None]:
    """Undo what `laconic serve` does to its process if a test calls it in this one: to the umask and to logging."""
    root = logging.getLogger()
    handlers, level, umask = [*root.handlers], root.level, os.umask(0o022)
    yield
    os.umask(umask)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def family_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a small family."""
    directory = tmp_path_factory.mktemp("family") / "abacus"
    build_family(directory)
    return directory


@pytest.fixture(scope="session")
def family(family_dir: Path) -> Family:
    return families.load(family_dir)


@pytest.fixture
async def engine(family: Family) -> AsyncIterator[FakeEngine]:
    """A scriptable engine."""
    async with FakeEngine(family).listening() as listening:
        yield listening


@pytest.fixture
async def other(family: Family) -> AsyncIterator[FakeEngine]:
    """Another one."""
    async with FakeEngine(family).listening() as listening:
        yield listening


@pytest.fixture
async def gateway(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path
) -> AsyncIterator[Gateway]:
    """A gateway in front of `engine`, with its own state directory: no copy of another test's keys is in it."""
    async with running(family_dir, redis_server.url, [engine.url], state_dir=tmp_path) as gateway:
        yield gateway
