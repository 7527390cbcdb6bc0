"""A scripted engine for faults that a real one does not show on request: it adds numbers, and thinks before it does."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

LONG = 60
"""Tokens of thinking without a cap."""


class ScriptedEngine:
    """Answers `What is a + b?`. Its thinking ends at a cap, if it takes the field that has it."""

    def __init__(
        self, *, cap: str | None = "thinking_token_budget", inline: bool = False, reports: bool = True
    ) -> None:
        self.cap, self.inline, self.reports = cap, inline, reports
        self.models: Any = {"data": [{"id": "adder", "max_model_len": 4096}]}
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.failures: list[int] = []
        """Statuses of the next responses."""
        self.refuses_unknown_fields = False
        self.url = ""

    async def chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if self.failures:
            return web.json_response({"error": {"message": "not now"}}, status=self.failures.pop(0))
        if self.refuses_unknown_fields and "thinking_token_budget" in body:
            return web.json_response({"error": {"message": "thinking_token_budget is unknown"}}, status=400)
        numbers = [int(number) for number in re.findall(r"\d+", str(body["messages"][-1]["content"]))]
        off = (body.get("chat_template_kwargs") or {}).get("enable_thinking") is False
        limit = body.get(self.cap) if self.cap else None
        thought = 0 if off else LONG if limit is None else min(limit, LONG)
        thinking = " hm" * thought
        # With little thinking it gets large sums wrong.
        right = thought >= sum(numbers)
        content = f"The answer is {sum(numbers) + (not right)}."
        message = {"role": "assistant", "content": content, "reasoning": thinking or None}
        if self.inline:
            message = {"role": "assistant", "content": f"<think>{thinking}</think>{content}" if thought else content}
        usage: dict[str, Any] = {"prompt_tokens": 5, "completion_tokens": thought + 4, "total_tokens": thought + 9}
        if self.reports:
            usage["completion_tokens_details"] = {"reasoning_tokens": thought}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response({"model": "adder", "choices": [choice], "usage": usage})

    async def list_models(self, _: web.Request) -> web.Response:
        if isinstance(self.models, int):
            return web.json_response({"error": {"message": "no list"}}, status=self.models)
        return web.json_response(self.models)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[ScriptedEngine]:
        app = web.Application()
        app.add_routes([web.post("/v1/chat/completions", self.chat), web.get("/v1/models", self.list_models)])
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        try:
            yield self
        finally:
            await runner.cleanup()
