"""Fakes for gateway tests: a small family, a scriptable engine, and a gateway on real sockets in front of it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from aiohttp import web
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from gateway.access.keyring import Keyring
from gateway.access.limits import Limiter
from gateway.app import create_app
from gateway.config import Settings
from gateway.engines.pool import Engines
from gateway.ledger import ledger
from gateway.ledger.entry import Entry
from gateway.process import guarded
from gateway.process.embedded import free_port
from gateway.services import Services
from models import family as families
from models import features
from models import profile as profiles
from models.family import Checkpoint, Estimate, Family, Measurements, Slice
from models.files import hash_files
from models.prediction import LEVELS
from models.stored import SCHEMA_VERSION
from tests.conftest import patient
from tests.gateway.prompt_server import PromptServer

PATTERN = r"\p{N}|\n+| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+"
NAMES: dict[str, float | None] = {"base": None, "alpha-0.1": 0.1, "alpha-0.4": 0.4}
EASY, HARD, UNFAMILIAR = "What is easy 1 + 2?", "What is hard 1 + 2?", "Gib mir bitte ein Gedicht"
"""By the test profile, every checkpoint solves the first, only the base the second; the third is unfamiliar."""
ESCALATIONS = {"alpha-0.4>base@10%": {"first": "alpha-0.4", "second": "base", "surprisal": 1.5}}
"""Predicted to be as good as the base at everything, at little more than the cost of alpha-0.4."""


def build_family(directory: Path, *, escalations: bool = False) -> Family:
    """Write a family of three checkpoints without weights, and load it; `escalations` adds `ESCALATIONS`."""
    for name in NAMES:
        (directory / name).mkdir(parents=True)
        (directory / name / "weights").write_text(name)
    tokenizer().save(str(directory / "base" / "tokenizer.json"))
    (directory / "profile.json").write_text(json.dumps(_profile(ESCALATIONS if escalations else {})))
    checkpoints = tuple(
        Checkpoint(
            name=name,
            alpha=alpha,
            kind="base" if alpha is None else "lora",
            path=name,
            files=hash_files(directory, name),
            frontier=_frontier(100.0 if alpha is None else 80 - 100 * alpha),
        )
        for name, alpha in NAMES.items()
    )
    family = Family(
        name="abacus",
        description="for tests",
        base="base",
        reference="base",
        context_tokens=1024,
        tokenizer="base/tokenizer.json",
        profile="profile.json",
        files=hash_files(directory, "profile.json"),
        checkpoints=checkpoints,
    )
    families.save(family, directory)
    return families.load(directory)


def tokenizer() -> Tokenizer:
    """A byte-level BPE with single digits, like the shipped family's."""
    made = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    corpus = ["What is the answer? The answer is 12.\n\nLet me check that again, step by step: 7 + 5 = 12."] * 20
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    made.train_from_iterator(
        corpus,
        trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    return made


def _profile(escalations: dict[str, Any]) -> dict[str, Any]:
    """Trees that recognise `EASY` by an unknown word: `hard` is in the vocabulary, `easy` is not."""
    unknown = features.FEATURES.index("unknown_words")
    place = len(features.FEATURES)

    def chosen(easy: tuple[float, ...], hard: tuple[float, ...]) -> dict[str, Any]:
        """A tree that splits by checkpoint, then by whether a word is unknown."""
        leaves = [value for pair in zip(hard, easy, strict=True) for value in pair]
        return {
            "intercept": 0.0, "roots": [0],
            "feature": [place, unknown, place, 0, 0, unknown, unknown, 0, 0, 0, 0],
            "threshold": [0.5, 0.1, 1.5, 0.0, 0.0, 0.1, 0.1, 0.0, 0.0, 0.0, 0.0],
            "left": [1, 3, 5, 3, 4, 7, 9, 7, 8, 9, 10],
            "right": [2, 4, 6, 3, 4, 8, 10, 7, 8, 9, 10],
            "value": [0.0, 0.0, 0.0, leaves[0], leaves[1], 0.0, 0.0, *leaves[2:]],
        }  # fmt: skip

    tokens = tuple(float(np.log1p(count)) for count in (100, 60, 20))
    nothing = {"intercept": 0.0, "roots": [], "feature": [], "threshold": [], "left": [], "right": [], "value": []}
    residuals = np.linspace(-0.5, 0.5, len(LEVELS)).tolist()
    return {
        "schema_version": SCHEMA_VERSION,
        "vocabulary": ["what", "is", "hard"],
        "lower": [0.0] * len(features.FEATURES),
        "upper": [20.0] * len(features.FEATURES),
        "difficulties": [0.01, 0.05, 0.5],
        "correct": chosen((4.0, 4.0, 4.0), (4.0, -2.0, -5.0)),
        "scales": dict.fromkeys(NAMES, (1.0, 0.0)),
        "tokens": chosen(tokens, tokens),
        "spread": nothing,
        "escalations": {
            name: escalation | {"scale": (0.0, 4.0), "unsure": (-2.2, 0.0, 0.0), "measured": {}}
            for name, escalation in escalations.items()
        },
        "budget_forced": nothing | {"intercept": -20.0},
        "budget_forced_shifts": {name: [0.0] for name in NAMES},
        "residuals": dict.fromkeys(NAMES, residuals),
        "report": {},
    }


def _frontier(tokens: float) -> Measurements:
    shares = {"p05": 0.3, "p10": 0.4, "p25": 0.6, "p50": 0.9, "p75": 1.3, "p90": 1.8, "p95": 2.2, "p99": 3.001}
    overall = Slice(
        prompts=100,
        accuracy=Estimate(mean=0.9, low=0.88, high=0.92),
        reasoning_tokens=Estimate(mean=tokens, low=tokens - 3, high=tokens + 3),
        quantiles={name: share * tokens for name, share in shares.items()},  # pyright: ignore[reportArgumentType]
    )
    return Measurements(
        overall=overall,
        by_difficulty={},
        samples_per_prompt=4,
        temperature=1.0,
        seed=1,
        command="laconic-train evaluate",
    )


Script = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


class FakeEngine:
    """Speaks vLLM's protocol. `script` writes the response to a chat request; `serves` are the models it lists."""

    def __init__(self, family: Family) -> None:
        self.serves = [family.served_name(checkpoint.name) for checkpoint in family.checkpoints]
        self.contexts: dict[str, int] = {}
        self.script: Script = answer
        self.more: list[web.RouteDef] = []
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.running = 0
        self.idle = asyncio.Event()
        self.busy = asyncio.Event()
        self.url = ""
        self.site: web.TCPSite

    async def models(self, _: web.Request) -> web.Response:
        data = [{"id": name, "max_model_len": self.contexts.get(name)} for name in self.serves]
        return web.json_response({"object": "list", "data": data})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        self.running += 1
        self.idle.clear()
        self.busy.set()
        try:
            return await self.script(request, body)
        finally:
            self.running -= 1
            if not self.running:
                self.idle.set()

    @asynccontextmanager
    async def listening(self, port: int = 0) -> AsyncIterator[FakeEngine]:
        app = web.Application()
        app.add_routes([web.get("/v1/models", self.models), web.post("/v1/chat/completions", self.chat), *self.more])
        # handler_cancellation: like vLLM, stop when the client goes away.
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        self.site = web.TCPSite(runner, "127.0.0.1", port or free_port())
        await self.site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()


USAGE = {
    "prompt_tokens": 17,
    "completion_tokens": 9,
    "total_tokens": 26,
    "completion_tokens_details": {"reasoning_tokens": 4},
}


def event(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> bytes:
    """One event as vLLM writes it."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "abacus/base"}
    data = json.dumps({**chunk, "choices": choices, **more}, separators=(",", ":"), ensure_ascii=False)
    return f"data: {data}\n\n".encode()


EVENTS = [
    event({"role": "assistant", "content": ""}),
    event({"reasoning": "1 + 2"}),
    event({"reasoning": " = 3"}),
    event({"content": "The answer is "}),
    event({"content": "3 → ok."}),
    event({}, "stop"),
    event(usage=USAGE),
    b"data: [DONE]\n\n",
]
WITHOUT_USAGE = [e for e in EVENTS if b'"usage"' not in e]
COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "abacus/base",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "The answer is 3.", "reasoning": "1 + 2 = 3"},
            "finish_reason": "stop",
        }
    ],
    "usage": USAGE,
}


async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """The response of a healthy engine."""
    if body.get("stream"):
        return await stream(*EVENTS)(request, body)
    return web.json_response(COMPLETION)


def stream(*pieces: bytes, then: Callable[[web.Request], Awaitable[None]] | None = None) -> Script:
    """A script that streams exactly these pieces; `then` runs before the stream ends."""

    async def script(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(0)
        if then is not None:
            await then(request)
        return response

    return script


def respond_with(status: int, payload: Any) -> Script:
    """A script that responds with a status and JSON."""

    async def script(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        return web.json_response(payload, status=status)

    return script


async def silent(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
    """A script that accepts the request and never responds."""
    await asyncio.Event().wait()
    raise AssertionError


async def forever(_: web.Request) -> None:
    """Wait until the caller leaves."""
    await asyncio.Event().wait()


async def die(request: web.Request) -> None:
    """Abort the connection, after what was sent has arrived."""
    await asyncio.sleep(0.1)
    assert request.transport is not None
    request.transport.abort()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; fail if it does not come true."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def error(response: httpx.Response) -> dict[str, Any]:
    """The error in a response, which must be in OpenAI's shape and name the request."""
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"].startswith("req_")
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


@dataclass
class Gateway:
    """A running gateway."""

    client: httpx.AsyncClient
    url: str
    services: Services

    @property
    def settings(self) -> Settings:
        return self.services.settings

    @property
    def engines(self) -> Engines:
        return self.services.engines

    @property
    def keyring(self) -> Keyring:
        return self.services.keyring

    @property
    def limiter(self) -> Limiter:
        return self.services.limiter

    async def probe(self) -> None:
        """Ask every engine now what it serves."""
        await self.engines._probes.probe_all()

    async def entries(self, count: int = 1) -> list[Entry]:
        """The ledger's entries, as soon as there are at least `count`."""
        redis = patient(self.settings.redis or "")
        try:
            async with asyncio.timeout(60):
                while len(entries := [entry async for entry in ledger.read_entries(redis, 0)]) < count:
                    await asyncio.sleep(0.01)
                return entries
        finally:
            await redis.aclose()

    async def ask(self, prompt: str = EASY, *, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        """Send one chat request. `body` overrides and adds fields."""
        chat = {"model": "abacus", "messages": [{"role": "user", "content": prompt}], **body}
        return await self.client.post("/v1/chat/completions", json=chat, headers=headers)


@asynccontextmanager
async def running(family_dir: Path, redis_url: str, engines: list[str], **settings: Any) -> AsyncIterator[Gateway]:
    """A gateway on a real socket, over a real Redis; no holdout unless a test wants one."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        chosen = Settings(
            **{
                "family": family_dir,
                "state_dir": family_dir.parent / "state",
                "engine": engines,
                "redis": redis_url,
                "holdout_fraction": 0.0,
                **settings,
            }
        )
        family = families.load(family_dir)
        profile = profiles.load(family_dir / family.profile)
        services = Services.create(chosen, family, profile)
        app = create_app(services)
        how: Any = {"http": guarded.protocol(chosen), "ws": "none", "log_level": "critical"}
        server = PromptServer(uvicorn.Config(app, **how, timeout_graceful_shutdown=2))
        # Not `serve`, which would take over the test's signals.
        serving = asyncio.create_task(server._serve([listener]))
        while not server.started:
            assert not serving.done(), serving.exception()
            await asyncio.sleep(0.01)
        url = f"http://127.0.0.1:{port}"
        try:
            async with httpx.AsyncClient(base_url=url, timeout=30) as client:
                yield Gateway(client, url, services)
        finally:
            services.stopping.set()
            server.leave()
            await serving
