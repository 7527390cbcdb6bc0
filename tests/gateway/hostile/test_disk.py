"""Faults of files: what others planted in a family, a configuration or the state directory, and disks that are full."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway import store
from gateway.ledger import ledger
from gateway.process.embedded import free_port
from models import family as families
from models.files import sha256
from tests.conftest import RedisServer
from tests.gateway.fakes import FakeEngine, error
from tests.gateway.process.serving import fail_to_start, serving

HUGE = 1 << 40


def fifo(path: Path) -> None:
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.mkdir()


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def deep(path: Path) -> None:
    path.write_text('{"a":' * 500_000)


def huge(path: Path) -> None:
    """A sparse file: a terabyte that takes no room."""
    with path.open("wb") as file:
        file.truncate(HUGE)


def plant(what: Callable[[Path], None], at: Path) -> None:
    at.unlink()
    what(at)


def all_modes(top: Path) -> dict[str, int]:
    paths = (top, *top.rglob("*"))
    return {str(path.relative_to(top)): stat.S_IMODE(path.lstat().st_mode) for path in paths}


@pytest.mark.parametrize("what", [fifo, directory, device, loop, deep, huge], ids=lambda what: what.__name__)
@pytest.mark.parametrize("name", [families.MANIFEST, "profile", "tokenizer"])
async def test_a_family_file_that_is_none_is_refused_in_one_line(
    family_dir: Path, tmp_path: Path, what: Callable[[Path], None], name: str
) -> None:
    copy = tmp_path / "family"
    shutil.copytree(family_dir, copy)
    manifest = json.loads((copy / families.MANIFEST).read_text())
    file = copy / manifest.get(name, name)
    plant(what, file)
    if what is deep and name != families.MANIFEST:  # its hash fits, so that it is read
        digest = sha256(file)
        for files in (manifest["files"], *(checkpoint["files"] for checkpoint in manifest["checkpoints"])):
            if manifest[name] in files:
                files[manifest[name]] = digest
        (copy / families.MANIFEST).write_text(json.dumps(manifest))
    arguments = ("--family", str(copy), "--state-dir", str(tmp_path / "state"))
    async with asyncio.timeout(30):
        message = await fail_to_start(*arguments, "--engine", "http://127.0.0.1:1", port=free_port())
    assert file.name in message
    assert len(message) < 600


@pytest.mark.parametrize("what", [fifo, directory, device, loop, deep, huge], ids=lambda what: what.__name__)
async def test_a_configuration_that_is_no_file_is_refused_in_one_line(
    tmp_path: Path, what: Callable[[Path], None]
) -> None:
    (file := tmp_path / "laconic.toml").touch()
    plant(what, file)
    async with asyncio.timeout(30):
        assert "config: " in await fail_to_start("--config", str(file), port=free_port())


async def test_the_state_directory_is_readable_by_its_owner_alone(
    engine: FakeEngine, family_dir: Path, tmp_path: Path
) -> None:
    """With its own Redis, two workers and an earlier version's files, which were open to others."""
    state = tmp_path / "state"
    (state / "logs").mkdir(parents=True, mode=0o755)
    (state / "keys.json").write_text('{"version": 0, "keys": []}')
    (state / "keys.json").chmod(0o644)
    (state / "mine.txt").touch(mode=0o644)
    async with serving(engine, family_dir, state, "--workers", "2") as serve:
        assert (await serve.ask()).status_code == 200
        modes = all_modes(state)
        assert "was open to other users" in serve.printed()
    modes |= all_modes(state)
    assert {"redis.sock", "lock", "logs/redis.log", "logs/worker-0.log"} <= set(modes)
    assert [path for path in modes if path.startswith("redis/")]
    assert modes.pop("mine.txt") == 0o644, "what the gateway did not put there is left alone"
    assert {path: mode for path, mode in modes.items() if mode & 0o077} == {}


@pytest.mark.parametrize("name", ["lock", "logs", "keys.json", "ledger.spool.jsonl", "redis/appendonlydir"])
async def test_a_link_in_the_state_directory_is_refused(
    engine: FakeEngine, family_dir: Path, redis_server: RedisServer, tmp_path: Path, name: str
) -> None:
    (tmp_path / "state" / "redis").mkdir(parents=True)
    (victim := tmp_path / "victim").write_text("precious")
    (tmp_path / "state" / name).symlink_to(victim)
    arguments = ("--engine", engine.url, "--family", str(family_dir), "--redis", redis_server.url)
    message = await fail_to_start(*arguments, "--state-dir", str(tmp_path / "state"), port=free_port())
    assert f"{name} in {tmp_path / 'state'} is a symbolic link" in message
    assert victim.read_text() == "precious"


SMALL_FILES = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, resource.RLIM_INFINITY))"
"""As on a full disk: no file of the process may grow beyond that. About sixteen ledger entries fit."""


@pytest.mark.parametrize("policy", ["serve", "refuse"])
async def test_the_gateway_says_so_while_a_kill_would_lose_entries(
    engine: FakeEngine, family_dir: Path, mortal_redis: RedisServer, tmp_path: Path, policy: str
) -> None:
    state = tmp_path / "state"
    options: Any = ("--redis", mortal_redis.url, "--when-books-cannot-be-kept", policy, "--log-level", "warning")
    mortal_redis.start()
    async with (
        serving(engine, family_dir, state, *options, prelude=SMALL_FILES) as serve,
        httpx.AsyncClient(base_url=serve.url, timeout=30) as client,
    ):

        async def books() -> dict[str, Any]:
            return (await client.get("/health/ready")).json()["books"]

        async def in_metrics(said: dict[str, Any]) -> bool:
            metrics = (await client.get("/metrics")).text
            in_memory = f"laconic_ledger_unsafe_entries {said['in_memory']:.1f}" in metrics
            return in_memory and f"laconic_ledger_lost_total {said['lost']:.1f}" in metrics

        assert await books() == {"safe": True, "pending": 0, "in_memory": 0, "lost": 0}
        mortal_redis.kill()
        statuses = [(await serve.ask()).status_code for _ in range(30)]
        said = await books()
        assert said["safe"] is False
        assert await in_metrics(said)
        assert said["pending"] == statuses.count(200)
        if policy == "serve":
            assert statuses == [200] * 30
            assert said["in_memory"] > 5
        else:
            assert statuses == sorted(statuses)
            assert statuses.count(503) > 5
            refused = await serve.ask()
            assert (error(refused)["code"], refused.headers["retry-after"]) == ("books_unavailable", "2")
            assert said["in_memory"] < 3, "the one whose entry found the disk full"
        assert serve.printed().count("entries are only in memory") == 1

        mortal_redis.start()
        async with asyncio.timeout(30):
            while not (said := await books())["safe"] or said["pending"]:
                await asyncio.sleep(0.1)
        assert await in_metrics(said)
        assert (await serve.ask()).status_code == 200
        assert serve.printed().count("entries are safe again; 0 were lost") == 1
        served = statuses.count(200) + 1
    redis = store.connect(mortal_redis.url)
    assert len([entry async for entry in ledger.read_entries(redis, 0)]) == served
    await redis.aclose()
