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
        self,
        *,
        cap: str | None = "thinking_token_budget",
        inline: bool = False,
        opens: bool = False,
        reports: bool = True,
    ) -> None:
        self.cap, self.inline, self.opens, self.reports = cap, inline, opens, reports
        """`inline`: no reasoning parser. `opens`: the template has opened the thinking, so no reply does."""
        self.models: Any = {"data": [{"id": "adder", "max_model_len": 4096}]}
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.failures: list[int] = []
        """Statuses of the next responses."""
        self.refuses_unknown_fields = False
        self.continues = True
        """Continues a message. False: it starts over, as an engine that does not know the field does."""
        self.url = ""

    async def chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if self.failures:
            return web.json_response({"error": {"message": "not now"}}, status=self.failures.pop(0))
        if self.refuses_unknown_fields and "thinking_token_budget" in body:
            return web.json_response({"error": {"message": "thinking_token_budget is unknown"}}, status=400)
        user = [message for message in body["messages"] if message["role"] == "user"]
        numbers = [int(number) for number in re.findall(r"\d+", str(user[-1]["content"]))]
        begun = str(body["messages"][-1]["content"]) if self.continues and body.get("continue_final_message") else ""
        off = (body.get("chat_template_kwargs") or {}).get("enable_thinking") is False
        limit = body.get(self.cap) if self.cap else None
        thought = 0 if off else LONG if limit is None else min(limit, LONG)
        if "</think>" in begun:
            thought = begun.count(" hm")
        # With little thinking it gets large sums wrong.
        right = thought >= sum(numbers)
        whole = [" hm"] * thought + (["</think>"] if thought else [])
        whole += ["The", " answer", " is", f" {sum(numbers) + (not right)}."]
        most = body.get("max_tokens") or len(whole)
        return web.json_response(self._response(begun, whole, most))

    def _response(self, begun: str, whole: list[str], most: int) -> dict[str, Any]:
        """What is generated behind what was begun, as tokens of a message."""
        done = begun.removeprefix("<think>")
        front = next(at for at in range(len(whole) + 1) if "".join(whole[:at]) == done)
        new = whole[front : front + most]
        thinking, mark, answer = "".join(new).partition("</think>")
        opened = "</think>" in whole and not begun
        thinking, answer = (thinking, answer) if opened else ("", "".join(new))
        message: dict[str, Any] = {"role": "assistant", "content": answer or None, "reasoning": thinking or None}
        if self.inline:
            start = "" if self.opens else "<think>"
            message = {"role": "assistant", "content": f"{start}{thinking}{mark}{answer}" if opened else answer}
        usage: dict[str, Any] = {"prompt_tokens": 5, "completion_tokens": len(new), "total_tokens": len(new) + 5}
        if self.reports:
            usage["completion_tokens_details"] = {"reasoning_tokens": new.count(" hm")}
        ended = "stop" if front + len(new) == len(whole) else "length"
        choice = {"index": 0, "message": message, "finish_reason": ended}
        return {"model": "adder", "choices": [choice], "usage": usage}

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
