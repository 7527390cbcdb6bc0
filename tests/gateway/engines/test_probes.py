"""What do probes make of an engine that answers anything, and what does the operator hear of it?"""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import NoReturn

import aiohttp
import psutil
import pytest
from aiohttp.client_reqrep import ConnectionKey

from gateway import supervision
from gateway.access import keys
from gateway.access.keys import Grant
from gateway.engines import listing, probes, replica
from gateway.engines.probes import MAX_MISSED_PROBES
from gateway.engines.replica import Replica
from gateway.process.embedded import free_port
from models.family import Family
from tests.conftest import RedisServer
from tests.gateway.engines.raw import RawEngine, Write, http, sends
from tests.gateway.fakes import FakeEngine, Gateway, running, until


@pytest.fixture(autouse=True)
def quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.engines.probes.PROBE_SECONDS", 0.05)
    monkeypatch.setattr(supervision, "faults", {})


@pytest.fixture
async def raw(family: Family) -> AsyncIterator[RawEngine]:
    async with RawEngine(family).listening() as engine:
        yield engine


Start = Callable[..., AbstractAsyncContextManager[Gateway]]


@pytest.fixture
def start(family_dir: Path, redis_server: RedisServer, tmp_path: Path) -> Start:
    """Starts a gateway in front of the engines with these URLs."""
    return lambda *urls: running(family_dir, redis_server.url, list(urls), state_dir=tmp_path)


def problem(gateway: Gateway) -> str | None:
    return gateway.engines.states[0].problem


async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b"[" * 65_536 + b"\r\n")
        await writer.drain()


def listed(value: object) -> Write:
    return sends(http(json.dumps(value).encode()))


BOMB = gzip.compress(b'{"data": [' + b" " * 50_000_000 + b"]}")
UNREADABLE, NOT_HTTP, OTHER = "its list of models cannot be read", "no HTTP answer", "it lists other models"
ODD_LISTS: dict[str, tuple[Write, str]] = {
    "strings": (listed({"data": ["abacus/base"]}), OTHER),
    "ids that are lists": (listed({"data": [{"id": ["abacus/base"]}]}), OTHER),
    "ids that are objects": (listed({"data": [{"id": {"a": 1}}]}), OTHER),
    "ids that are numbers": (listed({"data": [{"id": 5}, {"id": None}]}), OTHER),
    "nothing": (listed({"data": []}), OTHER),
    "data that is an object": (listed({"data": {"id": "abacus/base"}}), UNREADABLE),
    "a list": (listed([{"id": "abacus/base"}]), UNREADABLE),
    "a number": (listed(5), UNREADABLE),
    "deep": (sends(http(b'{"data":' + b"[" * 100_000)), UNREADABLE),
    "not UTF-8": (sends(http(b'{"data": [{"id": "\xff\xfe"}]}')), UNREADABLE),
    "HTML": (sends(http(b"<html>")), UNREADABLE),
    "empty": (sends(http(b"")), UNREADABLE),
    "huge": (sends(http(b'{"data": [' + b"{}," * listing.MAX_LIST_BYTES)), "its list of models is too long"),
    "without end": (endless, "its list of models is too long"),
    "gzip": (sends(http(BOMB, "content-encoding: gzip")), UNREADABLE),
    "not HTTP": (sends(b"\0\1\2\r\n\r\n"), NOT_HTTP),
    "a huge header": (sends(http(b"{}", "x: " + "y" * 100_000)), NOT_HTTP),
    "an odd character set": (sends(http(b"{}", "content-type: application/json; charset=\xe9")), UNREADABLE),
    "a redirect": (sends(http(b"", "location: http://127.0.0.1:1/", status="302 Found")), "HTTP 302"),
    "an odd redirect": (sends(http(b"", "location: http://[", status="302 Found")), "HTTP 302"),
    "401": (sends(http(b'{"error": "no"}', status="401 Unauthorized")), "HTTP 401"),
    "less than its length": (sends(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\nconnection: close\r\n\r\n{"), "timeout"),
}


@pytest.mark.parametrize(("odd", "expected"), ODD_LISTS.values(), ids=ODD_LISTS)
async def test_an_engine_with_an_odd_list_is_marked_and_probed_again(
    raw: RawEngine,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    odd: Write,
    expected: str,
) -> None:
    """Whether it has been up before or not; nothing of it is a fault of the gateway."""
    if expected == "timeout":  # all else is for the answer to say, however long a busy machine takes to read it
        monkeypatch.setattr(probes, "PROBE_TIMEOUT_SECONDS", 0.5)
    raw.models = odd
    async with start(raw.url) as gateway:
        for _ in range(2):
            assert problem(gateway) == expected
            ready = await gateway.client.get("/health/ready")
            assert (ready.status_code, ready.json()["engines"][0]["problem"]) == (503, expected)
            raw.models = sends(raw.good_list)
            await until(lambda: not gateway.engines.missing)
            raw.models = odd
            await until(lambda: problem(gateway) is not None)
        assert raw.probes > 4
    assert supervision.faults == {}


async def unresolved(replica: Replica) -> NoReturn:
    raise aiohttp.ClientConnectorDNSError(
        ConnectionKey("h", 1, False, True, None, None, None), socket.gaierror(socket.EAI_AGAIN, "Temporary failure")
    )


def no_such_name(gateway: Gateway, _: RawEngine) -> None:
    gateway.engines._probes._list = unresolved


def bad_gateway(_: Gateway, raw: RawEngine) -> None:
    raw.models = sends(http(b"", status="502 Bad Gateway"))


@pytest.mark.parametrize(("fail", "kind"), [(bad_gateway, "HTTP 502"), (no_such_name, "unknown host")])
async def test_what_may_pass_takes_an_engine_out_of_service_only_at_the_third_probe_in_a_row(
    raw: RawEngine,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    fail: Callable[[Gateway, RawEngine], None],
    kind: str,
) -> None:
    """It keeps its requests and what is known of it, such as that its caps do not hold."""
    monkeypatch.setattr(probes, "PROBE_SECONDS", 600.0)  # only `probe` below probes
    async with start(raw.url) as gateway:
        listed, (engine,) = gateway.engines._probes._list, gateway.engines._replicas
        engine.record_cap(kept=False)
        for _ in range(2):
            fail(gateway, raw)
            for _ in range(MAX_MISSED_PROBES - 1):
                await gateway.probe()
                assert (problem(gateway), gateway.engines.missing) == (None, [])
            gateway.engines._probes._list, raw.models = listed, sends(raw.good_list)
            await gateway.probe()
        assert engine.caps.lost
        fail(gateway, raw)
        for _ in range(MAX_MISSED_PROBES):
            await gateway.probe()
        assert (problem(gateway), len(gateway.engines.missing)) == (kind, 3)


@pytest.mark.parametrize("status", ["401 Unauthorized", "302 Found", "404 Not Found"])
async def test_an_answer_that_does_not_change_by_itself_takes_an_engine_out_of_service_at_once(
    raw: RawEngine, start: Start, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    monkeypatch.setattr(probes, "PROBE_SECONDS", 600.0)
    async with start(raw.url) as gateway:
        raw.models = sends(http(b"", status=status))
        await gateway.probe()
        assert problem(gateway) == f"HTTP {status[:3]}"


async def test_odd_lists_do_not_keep_memory(raw: RawEngine, start: Start) -> None:
    process = psutil.Process()
    raw.models = sends(http(b'{"data": [' + b"{}," * 100 + b"{}]}"))
    async with start(raw.url):
        before = process.memory_info().rss
        for raw.models in (endless, sends(http(BOMB, "content-encoding: gzip"))):
            seen = raw.probes
            await until(lambda seen=seen: raw.probes > seen + 10)
        assert process.memory_info().rss < before + 50 * 2**20


def warnings(caplog: pytest.LogCaptureFixture, url: str) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING and url in one.getMessage()]


async def test_an_engine_that_never_comes_up_is_mentioned_at_start_and_again(
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(replica, "FIRST_REMINDER_SECONDS", 0.2)
    url = f"http://127.0.0.1:{free_port()}"
    async with start(url):
        (first,) = warnings(caplog, url)
        assert f"engine {url} is not up: connection refused: GET /v1/models" in first
        await until(lambda: len(warnings(caplog, url)) == 3)
        times = [one.created for one in caplog.records if url in one.getMessage()]
        assert "is not up for" in warnings(caplog, url)[1]
    assert times[2] - times[1] > 1.5 * (times[1] - times[0])  # the pause doubles


@pytest.mark.parametrize(
    ("models", "words"),
    [
        (sends(http(b"", status="401 Unauthorized")), "HTTP 401"),
        (
            listed({"data": [{"id": "llama\nforged line"}, {"id": "qwen"}]}),
            r"lists 'llama\nforged line', 'qwen', none of",
        ),
        (listed({"data": [{"id": f"model-{n}" * 100} for n in range(9)]}), "and 4 more, none of 'abacus/alpha-0.1'"),
        (listed({"data": []}), "lists nothing, none of"),
    ],
)
async def test_the_log_says_why_an_engine_is_not_up(
    raw: RawEngine, start: Start, caplog: pytest.LogCaptureFixture,
    models: Write, words: str,
) -> None:  # fmt: skip
    raw.models = models
    async with start(raw.url):
        (line,) = warnings(caplog, raw.url)
    assert words in line
    assert "\n" not in line
    assert len(line) < 800


async def test_the_log_has_one_line_when_an_engine_comes_up_and_one_when_it_goes(
    raw: RawEngine, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "laconic")
    raw.models = listed({"data": []})
    async with start(raw.url) as gateway:

        def lines(words: str) -> int:
            return sum(words in one.getMessage() for one in caplog.records)

        async def probes(number: int) -> None:
            seen = raw.probes
            await until(lambda: raw.probes > seen + number)

        raw.models = sends(raw.good_list)
        await until(lambda: not gateway.engines.missing)
        await probes(3)
        assert lines(f"engine {raw.url} serves ") == 1
        raw.models = listed({"data": [{"id": "abacus/base"}]})
        await until(lambda: len(gateway.engines.missing) == 2)
        await probes(3)
        assert lines("no longer lists alpha-0.1, alpha-0.4") == 1
        raw.models = listed({"data": []})
        await until(lambda: len(gateway.engines.missing) == 3)
        await probes(3)
        assert lines(f"engine {raw.url} is down: it lists other models") == 1


async def test_readiness_names_each_engines_problem_and_its_url_only_to_an_admin(
    raw: RawEngine, engine: FakeEngine, start: Start
) -> None:
    raw.models = sends(http(b"", status="401 Unauthorized"))
    async with start(engine.url, raw.url) as gateway:
        secret, _ = await keys.create(gateway.keyring.redis, Grant(name="boss", admin=True))
        await gateway.keyring.refresh()
        serves = ["alpha-0.1", "alpha-0.4", "base"]
        action = "Set it in LACONIC_ENGINE_KEY or --engine-key-file."
        expected = [
            {
                "up": True,
                "serves": serves,
                "problem": None,
                "action": None,
                "assumed": False,
                "caps_hold": True,
                "over_cap": 0,
            },
            {
                "up": False,
                "serves": [],
                "problem": "HTTP 401",
                "action": action,
                "assumed": False,
                "caps_hold": True,
                "over_cap": 0,
            },
        ]
        ready = await gateway.client.get("/health/ready")
        assert (ready.status_code, ready.json()["engines"]) == (200, expected)
        assert "report" not in ready.json()
        ready = await gateway.client.get("/health/ready", headers={"authorization": f"Bearer {secret}"})
        urls = [{"url": engine.url}, {"url": raw.url}]
        assert ready.json()["engines"] == [url | state for url, state in zip(urls, expected, strict=True)]
        wants = f"{raw.url}: HTTP 401: GET /v1/models: it wants a key, and none is set. {action}"
        assert ready.json()["report"] == [wants]
