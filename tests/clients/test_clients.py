"""Do other people's clients get through the gateway what they get from OpenAI or Anthropic?

Every program in `python/` and `node/` makes one client do all that it can do, and prints what the client showed. The
answers of the engine are scripted, so what every client must show is the same: `EXPECTED`.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.gateway.fakes import COMPLETION, FakeEngine, Gateway, answer, event, stream

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
PYTHON = ROOT / ".venv-clients/bin/python"
NODE = shutil.which("node")
INSTALLED = {".py": ROOT / ".venv-clients/.installed", ".mjs": HERE / "node/node_modules/.installed"}
"""What scripts/clients.sh leaves behind, by the ending of a program's name."""

EXPECTED: dict[str, Any] = {
    "whole": "The answer is 3.",
    "stream": "The answer is 3 → ok.",
    "thought": "1 + 2 = 3",
    "usage": [17, 9, 4],
    "stream_usage": [17, 9, 4],
    "budget": "60",
    "tool": "It is 3.",
    "prompt": "The answer is 3.",
    "object": {"total": 3},
    "unknown": "The model 'nobody' does not exist here.",
    "refused": "lots",
}
"""The answer, whole and streamed, and the thinking; the tokens of the prompt, of all that was written and of the
thinking; what the header says of the effort `low`; the answer after a call of the tool `add`; the answer to a prompt of
the old completions; the object that was asked for; and what the errors say of an unknown model and of the effort
`lots`."""


@dataclass(frozen=True)
class Client:
    """A program, the errors that its client raises for a 404 and a 400, and what it does not show."""

    program: str
    errors: tuple[str, ...] = ("NotFoundError", "BadRequestError")
    lacks: frozenset[str] = frozenset()


def lacks(*names: str) -> frozenset[str]:
    return frozenset(names)


LANGCHAIN = ("OpenAIModelNotFoundError", "OpenAIInvalidRequestError")
VERCEL = ("AI_APICallError", "AI_APICallError")
CLIENTS = [
    Client("anthropic_messages.mjs", lacks=lacks("prompt")),
    Client("openai_chat.mjs"),
    Client("openai_responses.mjs", lacks=lacks("prompt")),
    Client("vercel_compatible.mjs", VERCEL),
    Client("vercel_responses.mjs", VERCEL, lacks("prompt", "thought")),
    Client(
        "instructor_chat.py",
        ("InstructorRetryException", "InstructorRetryException"),
        lacks("whole", "stream", "thought", "stream_usage", "budget", "tool", "prompt"),
    ),
    Client("langchain_chat.py", LANGCHAIN, lacks("thought")),
    Client("langchain_responses.py", LANGCHAIN, lacks("prompt", "thought")),
    Client("litellm_chat.py"),
    Client("litellm_messages.py", lacks=lacks("prompt")),
    Client("llamaindex_chat.py", lacks=lacks("budget", "thought")),
    Client("llm_chat.py", ("NotFoundError",), lacks("budget", "refused", "thought")),
    Client("lm_eval_tasks.py", (), frozenset(EXPECTED) - {"whole", "prompt"}),
    Client("pydantic_ai_chat.py", ("ModelHTTPError", "ModelHTTPError"), lacks("budget", "prompt")),
]


async def scripted(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Call the caller's tool, say what it returned, write the object that is asked for, or answer."""
    last = body["messages"][-1]
    if last["role"] == "tool":
        return await said(request, body, {"content": f"It is {last['content']}."}, "stop")
    if body.get("tools"):
        name = body["tools"][0]["function"]["name"]
        arguments = '{"a": 1, "b": 2}' if name == "add" else '{"total": 3}'
        call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
        return await said(request, body, {"reasoning": "1 + 2", "tool_calls": [call]}, "tool_calls")
    if body.get("response_format"):
        return await said(request, body, {"content": '{"total": 3}'}, "stop")
    return await answer(request, body)


async def said(request: web.Request, body: dict[str, Any], message: dict[str, Any], finish: str) -> web.StreamResponse:
    """One message of the engine's, whole or as a stream."""
    if body.get("stream"):
        pieces = [{"role": "assistant", "content": ""}, *({name: part} for name, part in message.items())]
        usage = event(usage=COMPLETION["usage"])
        return await stream(*map(event, pieces), event({}, finish), usage, b"data: [DONE]\n\n")(request, body)
    choice = {"index": 0, "message": {"role": "assistant", "content": None, **message}, "finish_reason": finish}
    return web.json_response({**COMPLETION, "choices": [choice]})


async def shown(client: Client, url: str, home: Path) -> dict[str, Any]:
    """What a client's program prints."""
    in_python = client.program.endswith(".py")
    interpreter, program = (PYTHON, HERE / "python") if in_python else (NODE, HERE / "node")
    assert interpreter is not None
    process = await asyncio.create_subprocess_exec(
        interpreter, program / client.program, url, cwd=home,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        # Nothing of this environment, so no proxy; and nothing from the network.
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
    )  # fmt: skip
    try:
        out, errors = await asyncio.wait_for(process.communicate(), 300)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()[-4000:]
    return json.loads(out.decode().splitlines()[-1])


def installed(client: Client) -> bool:
    return INSTALLED[Path(client.program).suffix].exists() and (client.program.endswith(".py") or NODE is not None)


NOT_INSTALLED = pytest.mark.skip("the client is not installed: run `make test-clients`, with Node.js for some of them")
TRIED = [pytest.param(one, id=one.program, marks=() if installed(one) else NOT_INSTALLED) for one in CLIENTS]


@pytest.mark.parametrize("client", TRIED)
async def test_a_client_shows_what_the_engine_said(
    gateway: Gateway, engine: FakeEngine, tmp_path: Path, client: Client
) -> None:
    engine.script = scripted
    seen = await shown(client, gateway.url, tmp_path)
    errors = {name: seen.pop(name) for name in ("unknown", "refused") if name in seen}
    assert seen == {name: value for name, value in EXPECTED.items() if name in seen}
    assert EXPECTED.keys() - seen.keys() - errors.keys() == client.lacks
    assert tuple(error["name"] for error in errors.values()) == client.errors
    for name, error in errors.items():
        assert EXPECTED[name] in error["message"]
    assert 60 in [body.get("thinking_token_budget") for body in engine.bodies]
    if "object" in seen:
        asked = [body[field] for body in engine.bodies for field in ("response_format", "tools") if body.get(field)]
        assert "total" in json.dumps(asked)


def test_every_program_is_tried() -> None:
    programs = {path.name for path in (HERE / "python").iterdir()} | {path.name for path in HERE.glob("node/*.mjs")}
    shared = {"shown.py", "shown.mjs", "langchain_programs.py", "litellm_programs.py", "vercel.mjs", "__pycache__"}
    assert {client.program for client in CLIENTS} == programs - shared


def test_the_documents_name_the_versions_that_are_pinned() -> None:
    page = (ROOT / "docs/how-to/other-apis.md").read_text()
    python = [line.split("==") for line in (HERE / "requirements.txt").read_text().split()]
    node = json.loads((HERE / "node/package.json").read_text())["dependencies"]
    node.pop("zod")  # no client: the others write schemas with it
    pins = [f"{name.partition('[')[0]} {version}" for name, version in [*python, *node.items()]]
    assert [pin for pin in pins if pin not in page] == []


def test_the_lock_leaves_the_registry_to_whoever_installs() -> None:
    packages = json.loads((HERE / "node/package-lock.json").read_text())["packages"]
    assert [name for name, package in packages.items() if "resolved" in package] == []
