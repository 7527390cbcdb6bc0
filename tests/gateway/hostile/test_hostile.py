"""Whatever a caller sends: never a 5xx, never a crash, no growth."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import psutil
import pytest
from hypothesis import strategies as st

from gateway.access import keys
from gateway.access.keys import Grant
from tests.conftest import RedisServer
from tests.gateway.fakes import EASY, FakeEngine, Gateway, error, running
from tests.gateway.hostile.raw import POST
from tests.gateway.process.test_serve import serving

EXAMPLES = 40
ANY_HEALTH: Any = list(hypothesis.HealthCheck)


@pytest.mark.parametrize("with_key", [True, False], ids=["an admin", "nobody"])
async def test_requests_generated_from_the_openapi_document(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path, with_key: bool
) -> None:
    """By schemathesis' own command: no 5xx, and every answer is one that the document promises."""
    async with running(family_dir, redis_server.url, [engine.url], state_dir=tmp_path) as gateway:
        secret, _ = await keys.create(gateway.keyring.redis, Grant(name="boss", admin=True))
        await gateway.keyring.refresh()
        given = ("--header", f"Authorization:Bearer {secret}") if with_key else ()
        checks = ("not_a_server_error", "status_code_conformance", "content_type_conformance")
        exploring = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{gateway.url}/openapi.json", *given),
            *("--checks", ",".join((*checks, "response_schema_conformance")), "--max-examples", str(EXAMPLES)),
            *("--phases", "examples,coverage,fuzzing", "--seed", "0", "--generation-database", "none", "--no-color"),
            *("--suppress-health-check", "all", "--continue-on-failure"),
            *("--exclude-path", "/v1/overview/stream"),  # which does not end (tests/gateway/dashboard)
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=tmp_path,
        )
        response, _ = await exploring.communicate()
        assert exploring.returncode == 0, response.decode()
        assert (await gateway.client.get("/health/live")).status_code == 200


class MalformedRequests:
    """Requests that no client should send, the same ones each time."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def next(self) -> tuple[str, str, list[tuple[str, str]], bytes]:
        """Method, path, headers, body."""
        rng = self._random
        body = json.dumps(self._object(0)).encode()
        kind = rng.randrange(9)
        if kind == 0:  # torn, or with noise in it
            at = rng.randrange(len(body) + 1)
            body = body[:at] + bytes(rng.randrange(256) for _ in range(rng.randrange(8)))
        elif kind == 1:  # nested deeply
            body = b'{"model":"abacus","messages":' + b"[" * rng.choice([100, 10_000, 400_000])
        elif kind == 2:  # wrong types for what is acted on
            body = json.dumps({"model": "abacus", "messages": self._value(0), "n": self._value(0)}).encode()
        elif kind == 3:  # numbers that are none
            body = b'{"model":"abacus","messages":[],"max_tokens":' + rng.choice([b"1e999", b"-0", b"9" * 5000]) + b"}"
        headers = [("content-type", rng.choice(["application/json", "text/plain", ""]))]
        if kind == 4:
            headers += [("X-Reasoning-Budget", self._word()) for _ in range(rng.randrange(1, 4))]
            headers += [("X-Reasoning-Budget-Policy", self._word())]
        if kind == 5:
            headers += [(f"x-{number}", "a" * 100) for number in range(rng.randrange(80))]
        if kind == 6:
            headers += [("traceparent", self._word()), ("authorization", self._word()), ("x-laconic-debug", "true")]
        path = rng.choice(["/v1/chat/completions", "/v1/route", "/v1/keys", "/v1/models/" + self._word()])
        return rng.choice(["POST", "POST", "POST", "GET"]), path, headers, body

    def _word(self) -> str:
        rng = self._random
        words = ["-1", "1.5", "1e9", "nan", "", "[]", "9" * 400, "auto", "0x10", "%00", "..%2f"]
        return rng.choice(words)

    def _object(self, depth: int) -> dict[str, Any]:
        rng = self._random
        fields = ["model", "messages", "stream", "n", "max_tokens", "reasoning", "thinking", "reasoning_effort",
                  "thinking_token_budget", "chat_template_kwargs", "stream_options", "tools", "x"]  # fmt: skip
        return {field: self._value(depth + 1) for field in rng.sample(fields, rng.randrange(len(fields)))}

    def _value(self, depth: int) -> Any:
        rng = self._random
        kind = rng.randrange(9 if depth < 4 else 7)
        plain = [None, True, -1, 1.5, 10**30, "abacus", self._word()]
        if kind < 7:
            return plain[kind]
        return [self._value(depth + 1) for _ in range(3)] if kind == 7 else self._object(depth + 1)


async def test_ten_thousand_malformed_requests(
    engine: FakeEngine, family_dir: Path, redis_server: RedisServer, tmp_path: Path
) -> None:
    malformed = MalformedRequests(seed=0)
    statuses: dict[int, int] = {}
    async with serving(
        engine, family_dir, tmp_path, "--redis", redis_server.url, "--max-body-bytes", "262144"
    ) as serve:
        process = psutil.Process(serve.process.pid)

        async def send(client: httpx.AsyncClient, number: int) -> None:
            for _ in range(number):
                method, path, headers, body = malformed.next()
                response = await client.request(method, path, headers=headers, content=body)
                assert response.status_code < 500, (method, path, headers, body[:200], response.text)
                statuses[response.status_code] = statuses.get(response.status_code, 0) + 1

        async with httpx.AsyncClient(base_url=serve.url, timeout=60) as client:
            await asyncio.gather(*(send(client, 250) for _ in range(8)))
            before = process.memory_info().rss
            await asyncio.gather(*(send(client, 1000) for _ in range(8)))
            after = process.memory_info().rss
        assert sum(statuses.values()) == 10_000
        assert {400, 404, 405, 413} <= set(statuses)
        assert after <= 1.05 * before, (before, after)
        assert (await serve.ask()).status_code == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"GARBAGE\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\n{}",
        POST + b"transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\nzz",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\n" + b"x: y\r\n" * 5000 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        POST + b"content-length: 100\r\n\r\n{",
    ],
)
async def test_bytes_that_are_not_http_end_only_their_connection(gateway: Gateway, raw: bytes) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(raw)
    await writer.drain()
    writer.write_eof()
    response = await reader.read()
    assert not response or response.startswith((b"HTTP/1.1 4", b"HTTP/1.1 200"))
    writer.close()
    assert (await gateway.ask(EASY)).status_code == 200


@hypothesis.given(st.text(min_size=0, max_size=300))
@hypothesis.settings(max_examples=100, suppress_health_check=ANY_HEALTH)
async def test_any_text_is_a_valid_prompt(gateway: Gateway, prompt: str) -> None:
    """Half a surrogate pair cannot be sent; everything else is answered."""
    try:
        prompt.encode()
    except UnicodeEncodeError:
        return
    assert (await gateway.ask(prompt)).status_code == 200


async def test_a_secret_is_not_repeated_in_an_error(gateway: Gateway) -> None:
    response = await gateway.client.get("/v1/models/sk-laconic-abc", headers={"authorization": "Bearer sk-laconic-def"})
    assert "sk-laconic-def" not in response.text
    error(response)
