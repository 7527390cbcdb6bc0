"""`laconic serve` as a process, before an engine whose wire can be scripted; with the real engine: tests/end_to_end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway import store
from gateway.access import keys
from gateway.access.keys import Grant
from gateway.ledger import ledger
from gateway.process.embedded import REDIS_SERVERS, free_port
from tests.conftest import RedisServer
from tests.gateway.fakes import EVENTS, FakeEngine, event, forever, stream

CHAT = {"model": "abacus", "messages": [{"role": "user", "content": "What is easy 1 + 2?"}]}


class Serve:
    """A running `laconic serve` and what it printed."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process, self.url = process, url

    @property
    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    async def ask(self) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.url, timeout=30) as client:
            return await client.post("/v1/chat/completions", json=CHAT)


async def launch(*arguments: str, port: int) -> asyncio.subprocess.Process:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LACONIC_")}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.cli", "serve", "--port", str(port), *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment,
    )


@asynccontextmanager
async def serving(
    engine: FakeEngine, family_dir: Path, state_dir: Path, *more: str, port: int | None = None
) -> AsyncGenerator[Serve]:
    port = port or free_port()
    arguments = ["--engine", engine.url, "--family", str(family_dir), "--state-dir", str(state_dir), *more]
    process = await launch(*arguments, port=port)
    assert process.stdout is not None
    printed = b""
    while b"Ctrl-C stops it" not in printed:
        line = await process.stdout.readline()
        assert line, printed.decode()
        printed += line
    assert f":{port}/v1" in printed.decode()
    assert b"curl http://" in printed
    try:
        yield Serve(process, f"http://127.0.0.1:{port}")
    finally:
        if process.returncode is None:
            process.terminate()
            await process.communicate()


async def refused(*arguments: str, port: int) -> str:
    process = await launch(*arguments, port=port)
    printed, _ = await process.communicate()
    assert process.returncode == 2
    assert printed.count(b"\n") == 1
    return printed.decode()


async def refuses(url: str) -> bool:
    """Whether nobody listens there; not where one is accepted and has to wait."""
    try:
        async with httpx.AsyncClient(base_url=url, timeout=0.5) as client:
            await client.get("/health/live")
    except httpx.ConnectError:
        return True
    except httpx.TransportError:
        pass
    return False


def all_gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=20)
    return not alive


def runs(process: psutil.Process) -> bool:
    """Now; one that has ended and that nobody has asked about yet does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_it_serves_and_brings_its_own_redis(engine: FakeEngine, family_dir: Path, tmp_path: Path) -> None:
    async with serving(engine, family_dir, tmp_path) as serve:
        assert (await serve.ask()).json()["choices"][0]["message"]["content"] == "The answer is 3."
        assert (tmp_path / "redis.sock").is_socket()


async def test_ctrl_c_ends_it_and_everything_it_started(engine: FakeEngine, family_dir: Path, tmp_path: Path) -> None:
    async with serving(engine, family_dir, tmp_path) as serve:
        children = serve.children
        assert [child for child in children if child.name() in REDIS_SERVERS]
        serve.process.send_signal(signal.SIGINT)
        await serve.process.communicate()
        assert serve.process.returncode == 0
        assert all_gone(children)


async def test_a_kill_leaves_nothing_behind_and_the_next_start_waits_for_that(
    engine: FakeEngine, family_dir: Path, tmp_path: Path
) -> None:
    async with serving(engine, family_dir, tmp_path) as serve:
        await serve.ask()
        children = serve.children
        serve.process.kill()
        async with serving(engine, family_dir, tmp_path) as again:
            assert all_gone(children)
            assert (await again.ask()).status_code == 200


async def test_the_next_start_waits_for_workers_that_finish_what_they_have(
    engine: FakeEngine, family_dir: Path, redis_server: RedisServer, tmp_path: Path
) -> None:
    engine.script = stream(*EVENTS[:2], then=forever)
    # Longer than a start takes: one that waited for nothing would be there before they have ended.
    many = ("--redis", redis_server.url, "--workers", "2", "--drain-seconds", "8")
    async with serving(engine, family_dir, tmp_path, *many) as serve:
        workers = serve.children
        async with (
            httpx.AsyncClient(base_url=serve.url, timeout=30) as client,
            client.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as answer,
        ):
            pieces = answer.aiter_bytes()
            await anext(pieces)
            serve.process.kill()
            async with serving(engine, family_dir, tmp_path, *many):
                assert not [worker for worker in workers if runs(worker)]


async def test_a_killed_redis_stops_no_answer_and_comes_back(
    engine: FakeEngine, family_dir: Path, tmp_path: Path
) -> None:
    async with serving(engine, family_dir, tmp_path) as serve:
        redis = next(child for child in serve.children if child.name() in REDIS_SERVERS)
        redis.kill()
        assert (await serve.ask()).status_code == 200
        while not [child for child in serve.children if child.name() in REDIS_SERVERS and child != redis]:
            await asyncio.sleep(0.05)
        assert (await serve.ask()).status_code == 200


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_told_to_stop_it_finishes_what_it_is_streaming_and_takes_nothing_new(
    engine: FakeEngine, family_dir: Path, tmp_path: Path, workers: str
) -> None:
    told = asyncio.Event()

    async def until_told(_: object) -> None:
        await told.wait()

    async def slowly(request: object, body: object) -> object:
        response = await stream(EVENTS[0], event({"content": "first"}), then=until_told)(request, body)  # type: ignore[arg-type]
        for piece in EVENTS[3:]:
            await response.write(piece)
        return response

    engine.script = slowly  # type: ignore[assignment]
    async with (
        serving(engine, family_dir, tmp_path, "--workers", workers) as serve,
        httpx.AsyncClient(base_url=serve.url, timeout=30) as client,
        client.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as response,
    ):
        chunks = response.aiter_bytes()
        received = await anext(chunks)
        serve.process.terminate()
        while not await refuses(serve.url):
            await asyncio.sleep(0.05)
        told.set()
        async for chunk in chunks:
            received += chunk
        assert received.endswith(b"data: [DONE]\n\n")
        await serve.process.communicate()
        assert serve.process.returncode == 0


async def test_what_is_taken_already_is_refused_at_once(engine: FakeEngine, family_dir: Path, tmp_path: Path) -> None:
    async with serving(engine, family_dir, tmp_path) as serve:
        family = ("--engine", engine.url, "--family", str(family_dir))
        taken = int(serve.url.rsplit(":", 1)[1])
        assert "port: " in await refused(*family, "--state-dir", str(tmp_path / "other"), port=taken)
        message = await refused(*family, "--state-dir", str(tmp_path), port=free_port())
        assert f"in use by another laconic (process {serve.process.pid})" in message


async def test_only_loopback_is_served_until_there_is_a_key(
    engine: FakeEngine, family_dir: Path, redis_server: RedisServer, tmp_path: Path
) -> None:
    places = ("--engine", engine.url, "--family", str(family_dir), "--redis", redis_server.url)
    everywhere = ("--host", "0.0.0.0", *places)
    said = await refused(*everywhere, "--state-dir", str(tmp_path / "refused"), port=free_port())
    assert "host: 0.0.0.0 can be reached from elsewhere" in said
    assert "laconic keys create" in said

    redis = store.connect(redis_server.url)
    secret, _ = await keys.create(redis, Grant(name="team-a"))
    await redis.aclose()
    async with serving(engine, family_dir, tmp_path, "--redis", redis_server.url, "--host", "0.0.0.0") as serve:
        assert (await serve.ask()).status_code == 401
        async with httpx.AsyncClient(base_url=serve.url, headers={"authorization": f"Bearer {secret}"}) as client:
            assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200


async def test_several_workers_are_one_gateway(
    engine: FakeEngine, family_dir: Path, redis_server: RedisServer, tmp_path: Path
) -> None:
    """One port, one set of limits, one ledger, one answer to a scrape; and one of them may die."""
    redis = store.connect(redis_server.url)
    limited, _ = await keys.create(redis, Grant(name="team-a", requests_per_minute=30))
    boss, _ = await keys.create(redis, Grant(name="boss", admin=True))
    many = ("--redis", redis_server.url, "--workers", "3", "--log-format", "json")
    async with serving(engine, family_dir, tmp_path, *many) as serve:

        def workers() -> list[psutil.Process]:
            return [
                child for child in serve.children if child.cmdline()[1:4] == ["-P", "-m", "gateway.process.workers"]
            ]

        async def ask(secret: str) -> int:
            # A connection of its own, which any of them may accept.
            async with httpx.AsyncClient(base_url=serve.url, timeout=30) as client:
                headers = {"authorization": f"Bearer {secret}"}
                return (await client.post("/v1/chat/completions", json=CHAT, headers=headers)).status_code

        first = workers()
        assert len(first) == 3
        seconds, _ = redis_server.client.time()
        if seconds % 60 > 40:
            await asyncio.sleep(61 - seconds % 60)
        statuses = await asyncio.gather(*(ask(limited) for _ in range(50)))
        assert (statuses.count(200), statuses.count(429)) == (30, 20)

        first[0].kill()
        first[0].wait()
        assert [await ask(boss) for _ in range(10)] == [200] * 10
        while len(workers()) < 3:
            await asyncio.sleep(0.05)

        async with httpx.AsyncClient(base_url=serve.url, headers={"authorization": f"Bearer {boss}"}) as client:
            while True:
                totals = (await client.get("/v1/savings?by=key")).json()["groups"]
                if sum(group["requests"] for group in totals.values()) >= 40:
                    break
                await asyncio.sleep(0.05)
            families = text_string_to_metric_families((await client.get("/metrics")).text)
        counted: Counter[str] = Counter()
        for sample in (sample for family in families for sample in family.samples):
            if sample.name == "laconic_requests_total":
                counted[sample.labels["status"]] += int(sample.value)
        assert counted == {"200": 40, "429": 20}
        assert {key: group["requests"] for key, group in totals.items()} == {"team-a": 30, "boss": 10}
        last = workers()
    logs = (tmp_path / "logs").glob("worker-*.log")
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines() if '"answered"' in line]
    assert len(lines) == 40
    assert all(line["request_id"].startswith("req_") and line["status"] == 200 for line in lines)
    assert len([one async for one in ledger.read_entries(redis, 0)]) == 40
    assert not any(worker.is_running() for worker in last)
    await redis.aclose()
