"""What did vLLM answer? A server between gateway and engine that keeps each answer, and one that gives them again.

Twenty deployments need twenty times the answers of one, which a small machine takes an hour to make. With the answers
of one, gateways can be run twenty times: everything but the model is live. A question that has several answers from a
checkpoint gets one of them at random.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

MODELS = "/v1/models"
JSON = {"content-type": "application/json"}
Respond = Callable[[str, bytes], Awaitable[tuple[int, bytes]]]
"""From a path and a body to a status and a body."""
_HEAD = "HTTP/1.1 {} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n"


def question_of(body: bytes) -> tuple[str, str]:
    """The model, and the last message's text."""
    asked: dict[str, Any] = json.loads(body)
    return asked["model"], asked["messages"][-1]["content"]


class Recorded:
    """Answers in a file, a line each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.models = b""
        self._answers: defaultdict[tuple[str, str], list[bytes]] = defaultdict(list)
        for line in path.read_text().splitlines() if path.exists() else ():
            row: dict[str, str] = json.loads(line)
            self._keep(row)

    def add(self, row: dict[str, str]) -> None:
        """Keep one more: `model`, `question` and `answer`, or the list of `models`."""
        self._keep(row)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(f"{json.dumps(row)}\n")

    def _keep(self, row: dict[str, str]) -> None:
        if "models" in row:
            self.models = row["models"].encode()
        else:
            self._answers[row["model"], row["question"]].append(row["answer"].encode())

    async def replay(self, path: str, body: bytes) -> tuple[int, bytes]:
        """One of the answers that were recorded; 404 if there is none."""
        if path == MODELS:
            return 200, self.models
        answers = self._answers.get(question_of(body)) if body else None
        return (200, random.choice(answers)) if answers else (404, b'{"error": {"message": "not recorded"}}')


@contextmanager
def recording(engine: str, path: Path) -> Generator[str]:
    """The URL of a server that asks the engine, and keeps its answers in the file."""
    recorded = Recorded(path)
    client = httpx.AsyncClient(base_url=engine, timeout=600, limits=httpx.Limits(max_connections=256))

    async def respond(asked: str, body: bytes) -> tuple[int, bytes]:
        response = await (client.post(asked, content=body, headers=JSON) if body else client.get(asked))
        if response.status_code == 200 and asked == MODELS and not recorded.models:
            recorded.add({"models": response.text})
        if response.status_code == 200 and asked.endswith("/chat/completions"):
            model, question = question_of(body)
            recorded.add({"model": model, "question": question, "answer": response.text})
        return response.status_code, response.content

    with _serving(respond, client.aclose) as url:
        yield url


@contextmanager
def replaying(path: Path) -> Generator[str]:
    """The URL of a server that answers from the file."""
    with _serving(Recorded(path).replay) as url:
        yield url


@contextmanager
def _serving(respond: Respond, close: Callable[[], Awaitable[None]] | None = None) -> Generator[str]:
    """Serve in a thread of its own."""
    loop, started, ports = asyncio.new_event_loop(), threading.Event(), list[int]()
    stopping = asyncio.Event()

    async def serve() -> None:
        server = await asyncio.start_server(lambda r, w: _connection(r, w, respond), "127.0.0.1", 0, backlog=2048)
        ports.append(server.sockets[0].getsockname()[1])
        started.set()
        await stopping.wait()
        server.close()
        connections = asyncio.all_tasks() - {asyncio.current_task()}
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        if close is not None:
            await close()
        await asyncio.sleep(0)  # transports that were closed are let go

    def run() -> None:
        loop.run_until_complete(serve())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    started.wait()
    try:
        yield f"http://127.0.0.1:{ports[0]}"
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join()


async def _connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, respond: Respond) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.lower().split(b"\r\n")
            length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
            body = await reader.readexactly(length)
            status, answer = await respond(head.split(b" ", 2)[1].decode(), body)
            writer.write(_HEAD.format(status, len(answer)).encode() + answer)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError, httpx.HTTPError):
        pass  # the gateway sees a closed connection
    finally:
        writer.close()
