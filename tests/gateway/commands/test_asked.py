"""Does `laconic route` read a request as the gateway does?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway import cli
from tests.conftest import RedisServer
from tests.gateway.fakes import EASY, HARD, FakeEngine, build_family, running


@pytest.mark.parametrize(
    "more",
    [
        {"model": "abacus/alpha-0.1"},
        {"max_tokens": 60},
        {"thinking_token_budget": 60},
        {"reasoning_effort": "low", "max_completion_tokens": 500},
        {"n": 2},
        {"logprobs": True},
    ],
)
async def test_route_explains_a_whole_request_as_the_gateway_does(
    redis_server: RedisServer,
    engine: FakeEngine,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: dict[str, Any],
) -> None:
    chat = {"model": "abacus", "messages": [{"role": "user", "content": HARD}], **more}
    directory, file = tmp_path / "abacus", tmp_path / "chat.json"
    build_family(directory, escalations=True)
    file.write_text(json.dumps(chat))
    async with running(directory, redis_server.url, [engine.url], state_dir=tmp_path) as gateway:
        explained = (await gateway.client.post("/v1/route", json=chat)).json()
    cli.main(["route", "--messages", str(file), "--family", str(directory), "--json"])
    here = json.loads(capsys.readouterr().out)
    assert here | {"conversation": None} == explained | {"conversation": None}  # which nothing remembers here


def test_the_flags_of_route_win_over_the_request(
    family_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = {"model": "abacus/base", "messages": [{"role": "user", "content": EASY}], "thinking_token_budget": 9}
    (tmp_path / "chat.json").write_text(json.dumps(chat))
    flags = ["--checkpoint", "alpha-0.1", "--budget", "50"]
    cli.main(["route", "--messages", str(tmp_path / "chat.json"), "--family", str(family_dir), "--json", *flags])
    explained = json.loads(capsys.readouterr().out)
    assert (explained["checkpoint"], explained["decision"]) == ("alpha-0.1", "pinned")
    assert (explained["budget"]["tokens"], explained["budget"]["source"]) == (50, "--budget")
