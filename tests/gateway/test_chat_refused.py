"""Which requests are refused, and what becomes of an engine's own refusals?"""

from __future__ import annotations

import asyncio
import gzip
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conftest import RedisServer
from tests.gateway.fakes import (
    EASY,
    EVENTS,
    FakeEngine,
    Gateway,
    error,
    respond_with,
    running,
    stream,
)

JSON = {"content-type": "application/json"}
REFUSAL = {"error": {"message": "temperature must be non-negative", "type": "BadRequestError", "param": "temperature"}}


async def test_an_engines_400_reaches_the_caller_as_a_400(gateway: Gateway, engine: FakeEngine) -> None:
    engine.script = respond_with(400, REFUSAL)
    for streamed in (False, True):
        response = await gateway.ask(stream=streamed, temperature=-1)
        assert response.status_code == 400
        assert error(response)["param"] == "temperature"
    assert [(e.status, e.reasoning_tokens) for e in await gateway.entries(2)] == [(400, 0), (400, 0)]
    # It was not the engine's fault: it goes on serving.
    engine.script = stream(*EVENTS)
    assert (await gateway.ask(stream=True)).status_code == 200


async def test_a_field_named_only_in_the_engines_message_becomes_the_param(
    gateway: Gateway, engine: FakeEngine
) -> None:
    engine.script = respond_with(
        400, {"error": {"message": "top_k must be 0 (disable), or at least 1, got -5.", "param": None}}
    )
    assert error(await gateway.ask(top_k=-5))["param"] == "top_k"


async def test_an_error_in_a_streams_first_event_is_still_a_400(gateway: Gateway, engine: FakeEngine) -> None:
    refusal = json.dumps({"error": {**REFUSAL["error"], "code": 400}}).encode()
    engine.script = stream(b"data: " + refusal + b"\n\n", b"data: [DONE]\n\n")
    response = await gateway.ask(stream=True)
    assert response.status_code == 400
    assert error(response)["param"] == "temperature"


@pytest.mark.parametrize(
    ("content", "param"),
    [
        (b"{", None),
        (b"", None),
        (b"[1]", None),
        (b"\xff", None),
        (b'{"model": "abacus"}', "messages"),
        (b'{"messages": [{"role": "user", "content": "x"}]}', "model"),
        (b'{"model": "abacus", "messages": [{"role": "user", "content": "\\ud800"}]}', "messages"),
        (b'{"model": "abacus", "messages": 5}', "messages"),
        (b'{"model": "abacus", "messages": [{"role": "user", "content": "x"}], "thinking": 5}', "thinking"),
    ],
)
async def test_an_unusable_body_is_a_400(gateway: Gateway, content: bytes, param: str | None) -> None:
    response = await gateway.client.post("/v1/chat/completions", content=content, headers=JSON)
    assert response.status_code == 400
    assert error(response)["param"] == param


async def test_an_unknown_model_is_a_404(gateway: Gateway) -> None:
    for model in ("gpt-4", "abacus/alpha-0.3", "abacus/", "alpha-0.4", "Abacus"):
        response = await gateway.ask(model=model)
        assert response.status_code == 404
        assert error(response)["code"] == "model_not_found"
        assert error(response)["param"] == "model"


async def test_a_body_over_the_limit_is_a_413(family_dir: Path, redis_server: RedisServer, engine: FakeEngine) -> None:
    async with running(family_dir, redis_server.url, [engine.url], max_body_bytes=1000) as gateway:
        response = await gateway.ask("x" * 1000)
        assert response.status_code == 413
        assert error(response)["code"] == "request_too_large"

        async def chunked_body() -> AsyncIterator[bytes]:
            for _ in range(200):
                yield b"x" * 10

        response = await gateway.client.post("/v1/chat/completions", content=chunked_body(), headers=JSON)
        assert response.status_code == 413
        assert (await gateway.ask(EASY)).status_code == 200


async def test_a_client_that_sends_first_and_reads_then_gets_its_413(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine
) -> None:
    """urllib writes its whole body before it reads: the gateway must not close the connection before."""
    async with running(family_dir, redis_server.url, [engine.url], max_body_bytes=1000) as gateway:
        request = urllib.request.Request(
            f"{gateway.client.base_url}/v1/chat/completions", b" " * 30_000_000, {"content-type": "application/json"}
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            await asyncio.to_thread(urllib.request.urlopen, request, timeout=60)
        assert refused.value.code == 413
        assert b"--max-body-bytes" in refused.value.read()


async def test_a_compressed_body_is_a_415(gateway: Gateway) -> None:
    response = await gateway.client.post(
        "/v1/chat/completions", content=gzip.compress(b"{}"), headers={**JSON, "content-encoding": "gzip"}
    )
    assert response.status_code == 415
    assert error(response)["param"] == "Content-Encoding"
    plain = await gateway.client.post(
        "/v1/chat/completions", content=b"{}", headers={**JSON, "content-encoding": "identity"}
    )
    assert error(plain)["param"] == "model"
