"""Does `laconic serve` start, serve and stop as a process? With a scripted engine; tests/end_to_end has a real one."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import httpx
import pytest

from gateway.access import keys
from gateway.access.keys import Grant
from gateway.ledger.spool import SPOOL
from gateway.process.embedded import REDIS_SERVERS, free_port
from gateway.process.serve import unknown_variables
from tests.conftest import RedisServer, patient
from tests.gateway.fakes import EVENTS, FakeEngine, event, forever, stream
from tests.gateway.hostile.raw import HEALTH, connect
from tests.gateway.process.serving import CHAT, all_ended, fail_to_start, refuses_connections, serving


async def test_serve_starts_its_own_redis(engine: FakeEngine, family_dir: Path, tmp_path: Path) -> None:
    async with serving(engine, family_dir, tmp_path) as serve:
        assert (await serve.ask()).json()["choices"][0]["message"]["content"] == "The answer is 3."
        assert (tmp_path / "redis.sock").is_socket()


async def test_a_connection_outlives_the_seconds_for_which_callers_keep_theirs(
    engine: FakeEngine, family_dir: Path, tmp_path: Path
) -> None:
    """httpx, and so OpenAI's SDK, uses a connection again for five seconds. It must not be closing just then."""
    async with serving(engine, family_dir, tmp_path) as serve:
        reader, writer = await connect(serve.url)
        for wait in (0.0, 7.0):
            await asyncio.sleep(wait)
            writer.write(HEALTH)
            assert b" 200 " in await reader.readuntil(b'{"status":"live"}')
        writer.close()


async def test_ctrl_c_stops_the_gateway_and_all_child_processes(
    engine: FakeEngine, family_dir: Path, tmp_path: Path
) -> None:
    async with serving(engine, family_dir, tmp_path) as serve:
        children = serve.children
        assert [child for child in children if child.name() in REDIS_SERVERS]
        serve.process.send_signal(signal.SIGINT)
        await serve.process.communicate()
        assert serve.process.returncode == 0
        assert all_ended(children)


async def test_after_a_kill_the_child_processes_end_and_the_next_start_waits_for_them(
    engine: FakeEngine, family_dir: Path, tmp_path: Path
) -> None:
    async with serving(engine, family_dir, tmp_path) as serve:
        await serve.ask()
        children = serve.children
        serve.process.kill()
        async with serving(engine, family_dir, tmp_path) as again:
            assert all_ended(children)
            assert (await again.ask()).status_code == 200


async def test_requests_are_served_while_a_killed_redis_restarts(
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
async def test_on_sigterm_streams_are_finished_and_new_connections_refused(
    engine: FakeEngine, family_dir: Path, tmp_path: Path, workers: str
) -> None:
    port_closed = asyncio.Event()

    async def until_port_closed(_: object) -> None:
        await port_closed.wait()

    async def slowly(request: object, body: object) -> object:
        response = await stream(EVENTS[0], event({"content": "first"}), then=until_port_closed)(request, body)  # type: ignore[arg-type]
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
        while not await refuses_connections(serve.url):
            await asyncio.sleep(0.05)
        port_closed.set()
        async for chunk in chunks:
            received += chunk
        assert received.endswith(b"data: [DONE]\n\n")
        await serve.process.communicate()
        assert serve.process.returncode == 0


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_open_dashboards_do_not_delay_the_stop(
    engine: FakeEngine, family_dir: Path, tmp_path: Path, workers: str
) -> None:
    options = ("--workers", workers, "--drain-seconds", "60")
    async with (
        serving(engine, family_dir, tmp_path, *options) as serve,
        httpx.AsyncClient(base_url=serve.url, timeout=30) as client,
        client.stream("GET", "/dashboard/stream") as response,
    ):
        assert f"{serve.url}/dashboard" in serve.printed()
        chunks = response.aiter_bytes()
        assert (await anext(chunks)).startswith(b"event: overview")
        serve.process.terminate()
        async with asyncio.timeout(20):
            async for _ in chunks:
                pass
            await serve.process.communicate()
        assert serve.process.returncode == 0


async def test_a_port_or_state_directory_in_use_is_an_error_at_once(
    engine: FakeEngine, family_dir: Path, tmp_path: Path
) -> None:
    async with serving(engine, family_dir, tmp_path) as serve:
        family = ("--engine", engine.url, "--family", str(family_dir))
        taken = int(serve.url.rsplit(":", 1)[1])
        assert "port: " in await fail_to_start(*family, "--state-dir", str(tmp_path / "other"), port=taken)
        message = await fail_to_start(*family, "--state-dir", str(tmp_path), port=free_port())
        assert f"in use by another laconic (process {serve.process.pid})" in message


async def test_without_keys_only_loopback_may_be_served(
    engine: FakeEngine, family_dir: Path, redis_server: RedisServer, tmp_path: Path
) -> None:
    places = ("--engine", engine.url, "--family", str(family_dir), "--redis", redis_server.url)
    everywhere = ("--host", "0.0.0.0", *places)
    message = await fail_to_start(*everywhere, "--state-dir", str(tmp_path / "refused"), port=free_port())
    assert "host: 0.0.0.0 is reachable from other machines" in message
    assert "laconic keys create" in message

    redis = patient(redis_server.url)
    secret, _ = await keys.create(redis, Grant(name="team-a"))
    await redis.aclose()
    async with serving(engine, family_dir, tmp_path, "--redis", redis_server.url, "--host", "0.0.0.0") as serve:
        assert (await serve.ask()).status_code == 401
        async with httpx.AsyncClient(base_url=serve.url, headers={"authorization": f"Bearer {secret}"}) as client:
            assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200


async def test_a_second_ctrl_c_ends_streams_at_once_and_their_callers_and_the_ledger_hear_of_it(
    engine: FakeEngine, family_dir: Path, tmp_path: Path
) -> None:
    engine.script = stream(event({"reasoning": "Hm."}), then=forever)
    async with serving(engine, family_dir, tmp_path) as serve, httpx.AsyncClient(base_url=serve.url) as client:
        async with client.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}, timeout=60) as answer:
            pieces = answer.aiter_text()
            received = await anext(pieces)
            serve.process.send_signal(signal.SIGINT)
            while "a second signal ends them at once" not in serve.printed():
                await asyncio.sleep(0.02)
            serve.process.send_signal(signal.SIGINT)
            received += "".join([piece async for piece in pieces])
        await serve.process.communicate()
        assert "gateway_stopping" in received
        assert serve.process.returncode == 0
        for noise in ("Traceback", "is down", "is spooled", "are spooled"):
            assert noise not in serve.printed()
        assert not (tmp_path / SPOOL).exists() or not (tmp_path / SPOOL).read_text()


TAKE_THE_PORT = """
import socket
from gateway.process import serve
merge, taken = serve.merge_spools, socket.socket()
def merge_spools(directory):
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.bind(("127.0.0.1", PORT))
    taken.listen()
    return merge(directory)
serve.merge_spools = merge_spools
"""


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_port_that_somebody_takes_during_the_start_ends_it_with_one_line(
    engine: FakeEngine, family_dir: Path, redis_server: RedisServer, tmp_path: Path, workers: int
) -> None:
    """As a gateway with another state directory does: both bind the port, and the first one to be ready has it."""
    port = free_port()
    message = await fail_to_start(
        *("--engine", engine.url, "--family", str(family_dir), "--state-dir", str(tmp_path)),
        *("--redis", redis_server.url, "--workers", str(workers)),
        port=port,
        prelude=TAKE_THE_PORT.replace("PORT", str(port)),
    )
    assert message.startswith(f"laconic serve: port: cannot listen on 127.0.0.1:{port} ")
    assert message.endswith("stop what listens there, or pass another --port\n")


def test_a_variable_that_no_setting_reads_is_named_with_what_may_have_been_meant() -> None:
    environment = {"LACONIC_PORT": "9000", "LACONIC_ENGINE_KEY": "x", "LACONIC_QUALITY_TOLERENCE": "0.5", "HOME": "/"}
    (warning,) = unknown_variables(environment)
    assert warning.startswith("LACONIC_QUALITY_TOLERENCE has no effect, because there is no such setting")
    assert warning.endswith("; did you mean LACONIC_QUALITY_TOLERANCE?")
    assert unknown_variables({"LACONIC_SERVICE_HOST": "10.0.0.1"}) == [
        "LACONIC_SERVICE_HOST has no effect, because there is no such setting"
    ]
