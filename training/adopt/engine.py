"""What does an engine answer? One client for any OpenAI-compatible API, and what its replies say.

A reply is untrusted: every field is checked where it is read. A response that is no reply is an error that names the
engine.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import httpx

from models import endpoint
from models.endpoint import ENGINE_KEY, EndpointError
from training.errors import StageError

RETRIES = 5
RETRY_SECONDS = 1.0
"""Before the first retry; each further pause is twice as long."""
TIMEOUT_SECONDS = 1200.0
REASONING_FIELDS = ("reasoning", "reasoning_content")


class EngineError(StageError):
    """The engine refused a request. The message has its status and what it said."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Reply:
    """One completion."""

    content: str
    reasoning: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int | None
    """As the engine reports it; None if it does not, or if that contradicts the reply."""
    seconds: float

    @property
    def finished(self) -> bool:
        """Whether it ended by itself, with an answer."""
        return self.finish_reason in ("stop", "tool_calls", "function_call") and bool(self.content.strip())


class Engine:
    """Sends requests to one engine, and retries what may succeed later."""

    def __init__(self, url: str, access: Access | None = None, *, at_once: int = 32) -> None:
        """`url` may end in /v1 or not. `at_once` bounds the requests in flight.

        Raises:
            StageError: the URL is none of an engine.
        """
        self._access = access or Access()
        try:
            self.url = endpoint.engine_url(url)
        except EndpointError as error:
            raise StageError(f"URL of the engine: {error}") from None
        self._api = endpoint.api(self.url)
        limits = httpx.Limits(max_connections=at_once)
        self._http = httpx.AsyncClient(
            headers=self._access.headers(self.url),
            timeout=TIMEOUT_SECONDS,
            limits=limits,
            verify=self._access.context(),
            trust_env=False,  # like the gateway, which knows no proxies and no .netrc
        )
        self._slots = asyncio.Semaphore(at_once)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def models(self) -> dict[str, dict[str, Any]] | None:
        """What the engine lists, by id; None if it has no list.

        Raises:
            StageError: the engine cannot be reached, or wants a key.
        """
        try:
            response = await self._http.get(f"{self._api}{endpoint.MODELS}", timeout=10)
        except httpx.HTTPError as error:
            raise StageError(f"{self.url}: cannot be reached ({_reason(error)}); {_advice(error)}") from None
        if response.status_code in (401, 403):
            had = "wants another key" if "authorization" in self._http.headers else "wants a key"
            raise StageError(f"{self.url}: the engine {had}; set LACONIC_ENGINE_KEY, or name a file by --key-file")
        if response.is_redirect:
            raise StageError(f"{self.url}: redirects to {response.headers['location'][:200]!r}; give that URL")
        listed = _object(response) if response.status_code == 200 else {}
        data = listed.get("data")
        if not isinstance(data, list):
            return None
        rows = [cast("dict[str, Any]", row) for row in cast("list[object]", data) if isinstance(row, dict)]
        return {row["id"]: row for row in rows if isinstance(row.get("id"), str)}

    async def chat(self, body: Mapping[str, Any]) -> Reply:
        """Send a chat request, again if the engine is busy or away.

        Raises:
            EngineError: the engine refused it, or failed `RETRIES` times.
        """
        async with self._slots:
            failure = EngineError(self.url, 0)
            for attempt in range(RETRIES + 1):
                began = time.perf_counter()
                try:
                    response = await self._http.post(f"{self._api}{endpoint.CHAT}", json=dict(body))
                    if response.status_code == 200:
                        return _reply(self.url, _object(response), time.perf_counter() - began)
                    failure = EngineError(
                        f"{self.url}: {response.status_code}: {_said(response)}", response.status_code
                    )
                    if response.status_code < 500 and response.status_code not in (408, 409, 429):
                        raise failure
                except httpx.HTTPError as error:
                    failure = EngineError(f"{self.url}: {_reason(error)}", 0)
                if attempt < RETRIES:
                    await asyncio.sleep(RETRY_SECONDS * 2**attempt)
            raise failure


class Access:
    """What engines want of whoever asks them, as in `laconic serve`: keys, more headers, certificates to trust."""

    def __init__(
        self,
        key_file: Path | None = None,
        headers: Sequence[str] = (),
        ca: Path | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """Keys come from the file or from `LACONIC_ENGINE_KEY`, never from the command line, which others can see.

        Raises:
            StageError: a file cannot be used, or a header is none. The message has no key in it.
        """
        setting = ENGINE_KEY
        try:
            self._key = endpoint.default_key(environment)
            setting = "--key-file"
            self._keys = {} if key_file is None else endpoint.read_keys(key_file)
            setting = "--header"
            self._more = endpoint.headers(headers)
        except EndpointError as error:
            raise StageError(f"{setting}: {error}") from None
        self._ca = ca

    def headers(self, url: str) -> dict[str, str]:
        """The headers for every request to the engine with this URL."""
        return endpoint.with_key(self._more, endpoint.key_for(url, self._keys, self._key))

    def context(self) -> ssl.SSLContext:
        """How to trust an engine's certificate.

        Raises:
            StageError: the certificates cannot be read.
        """
        try:
            return ssl.create_default_context(cafile=self._ca)
        except (OSError, ssl.SSLError) as error:
            raise StageError(f"--ca: {self._ca} has no certificates that can be read ({error.strerror})") from None


def _reply(url: str, answer: dict[str, Any], seconds: float) -> Reply:
    choices = answer.get("choices")
    choice = cast("list[object]", choices)[0] if isinstance(choices, list) and choices else None
    message = cast("dict[str, Any]", choice).get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise EngineError(f"{url}: the response has no message: {str(answer.get('error', ''))[:200]}", 502)
    fields = cast("dict[str, Any]", message)
    usage = _dict(answer.get("usage"))
    reasoning = next((text for name in REASONING_FIELDS if isinstance(text := fields.get(name), str)), "")
    completion = _count(usage.get("completion_tokens")) or 0
    reported = _count(_dict(usage.get("completion_tokens_details")).get("reasoning_tokens"))
    if reported is not None and (reported > completion or (reported == 0 and reasoning.strip())):
        reported = None
    content = fields.get("content")
    return Reply(
        content=content if isinstance(content, str) else "",
        reasoning=reasoning,
        finish_reason=str(cast("dict[str, Any]", choice).get("finish_reason") or ""),
        prompt_tokens=_count(usage.get("prompt_tokens")) or 0,
        completion_tokens=completion,
        reasoning_tokens=reported,
        seconds=seconds,
    )


def _object(response: httpx.Response) -> dict[str, Any]:
    try:
        return _dict(response.json())
    except (ValueError, RecursionError):
        return {}


def _dict(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else None


def _said(response: httpx.Response) -> str:
    """What an error response says, in one line."""
    outer = _object(response)
    error = outer.get("error", outer)
    message = _dict(error).get("message") or outer.get("detail") or response.text
    return " ".join(str(message).split())[:300]


def _reason(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__


def _advice(error: httpx.HTTPError) -> str:
    """What to do about an engine that cannot be reached."""
    said = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return "name the certificates of its authority by --ca"
    if "WRONG_VERSION_NUMBER" in said or "RECORD_LAYER" in said:
        return "it does not speak TLS; use http://"
    if isinstance(error, httpx.RemoteProtocolError):
        return "if the engine speaks TLS, use https://"
    return "is the engine running, and is its URL right?"
