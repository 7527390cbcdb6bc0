"""A callback for LiteLLM's proxy: Laconic decides which checkpoint answers, and is told what became of it.

Environment:
    LACONIC_URL           the gateway, such as http://127.0.0.1:8080
    LACONIC_KEY           its key, if it has keys
    LACONIC_MODEL         the model that callers ask for: the name of the family
    LACONIC_CHECKPOINTS   those that LiteLLM can reach, such as base,alpha-0.2
    LACONIC_SECONDS       how long a request waits for its decision; 1 by default

If Laconic does not answer in time, the request goes to the deployment of that name. What it refuses with a 400 or a 429
is refused here, too.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

import httpx
from fastapi import HTTPException
from litellm.integrations.custom_logger import CustomLogger

log = logging.getLogger("laconic")

MODEL = os.environ["LACONIC_MODEL"]
CHECKPOINTS = os.environ["LACONIC_CHECKPOINTS"].split(",")
FIELDS = (
    "messages", "max_tokens", "max_completion_tokens", "n", "stream", "stream_options", "tools", "response_format",
    "reasoning_effort", "thinking", "thinking_token_budget", "chat_template_kwargs",
)  # fmt: skip
"""What Laconic reads of a request. LiteLLM adds fields of its own, which it would refuse."""
HEADERS = ("x-reasoning-budget", "x-reasoning-budget-policy", "x-conversation-id")
SECONDS = float(os.environ.get("LACONIC_SECONDS", "1"))
REPORT_SECONDS = 10.0
PAUSES = (0.5, 2.0, 8.0, 30.0)
"""Seconds before an outcome is sent again. One that never comes counts as the longest thinking that could be."""


class LaconicHook(CustomLogger):
    """Sets the model before a call, and reports the tokens after it."""

    def __init__(self) -> None:
        super().__init__()
        headers = {"authorization": f"Bearer {os.environ['LACONIC_KEY']}"} if os.environ.get("LACONIC_KEY") else {}
        self._client = httpx.AsyncClient(base_url=os.environ["LACONIC_URL"], headers=headers, timeout=SECONDS)
        self._reports: set[asyncio.Task[None]] = set()

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: str
    ) -> Any:
        """Ask for a decision, and change the request by it."""
        if call_type not in ("completion", "acompletion") or data.get("model") != MODEL:
            return data
        asked = {name: data[name] for name in FIELDS if name in data}
        sent = (data.get("proxy_server_request") or {}).get("headers") or {}
        try:
            response = await self._client.post(
                "/v1/decisions",
                json={"model": MODEL, **asked, "router": "litellm", "checkpoints": CHECKPOINTS},
                headers={name: sent[name] for name in HEADERS if name in sent},
            )
            if response.status_code in (400, 429):
                raise HTTPException(response.status_code, response.json()["error"]["message"])
            response.raise_for_status()
        except httpx.HTTPError as error:
            log.warning("no decision, so %s answers: %r", MODEL, error)
            return data
        decision = response.json()
        for name in decision["drop"]:
            data.pop(name, None)
        data.update(decision["set"])
        data.setdefault("metadata", {})["laconic"] = decision["id"]
        return data

    async def async_log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """Report the tokens of an answer."""
        decision_id = _decision_of(kwargs.get("litellm_params") or {})
        if decision_id is None:
            return
        usage, choices = response_obj.usage, response_obj.choices
        completion = usage.completion_tokens_details
        prompt = usage.prompt_tokens_details
        reasoning = (completion and completion.reasoning_tokens) or 0
        self._report(
            decision_id=decision_id,
            model=kwargs["model"],
            finish_reason=choices[0].finish_reason or "",
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=prompt.cached_tokens if prompt else None,
            reasoning_tokens=reasoning,
            answer_tokens=usage.completion_tokens - reasoning,
        )

    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,
        user_api_key_dict: Any,
        traceback_str: Any = None,
    ) -> None:
        """Report a request that failed for good, after retries and fallbacks."""
        decision_id = _decision_of(request_data)
        if decision_id is None:
            return
        status = getattr(original_exception, "status_code", None)
        self._report(
            decision_id=decision_id,
            model=request_data["model"],
            status=status if isinstance(status, int) and 400 <= status <= 599 else 500,
            prompt_tokens=0,
            reasoning_tokens=0,
            answer_tokens=0,
        )

    def _report(self, **outcome: Any) -> None:
        """Send an outcome without keeping LiteLLM waiting."""
        task = asyncio.create_task(self._send(outcome))
        self._reports.add(task)  # the loop alone would not keep it alive
        task.add_done_callback(self._reports.discard)

    async def _send(self, outcome: dict[str, Any]) -> None:
        for pause in (*PAUSES, None):
            try:
                response = await self._client.post("/v1/outcomes", json=outcome, timeout=REPORT_SECONDS)
            except httpx.HTTPError as error:
                log.warning("an outcome was not sent: %r", error)
            else:
                if response.is_success:
                    return
                log.warning("an outcome was refused: %s", response.text)
                if response.status_code < 500:
                    return
            if pause is not None:
                await asyncio.sleep(pause)


def _decision_of(holder: dict[str, Any]) -> str | None:
    """The id of the decision, which LiteLLM carries through the call."""
    return (holder.get("metadata") or {}).get("laconic")


handler = LaconicHook()
