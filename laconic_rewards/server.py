"""How does a trainer in another language, or on another machine, get the rewards? By HTTP, one batch a request.

    python -m laconic_rewards.server --port 8300
    curl -s localhost:8300/rewards -H 'content-type: application/json' -d '{"alpha": 0.2, "rollouts": [
      {"group": "q1", "response": "<think>2 + 2</think>4", "tokens": 9, "gold": "4"},
      {"group": "q1", "response": "<think>Two and two</think>4", "tokens": 12, "gold": "4"}]}'

It listens on the loopback. Other addresses need a key, in LACONIC_REWARDS_KEY, which callers send as a bearer token.
"""

from __future__ import annotations

import argparse
import hmac
import ipaddress
import json
import os

import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from laconic_rewards.answers import is_right
from laconic_rewards.groups import Rollout, Settings, advantages, rewards
from training.config import OutcomeRule

MOST_ROLLOUTS = 65_536
LONGEST_RESPONSE = 1_000_000
_MOST_TOKENS = 10_000_000
_KEY = "LACONIC_REWARDS_KEY"
_ERRORS: dict[int | str, dict[str, str]] = {
    400: {"description": "The body is no text in UTF-8."},
    401: {"description": "The key is wrong."},
}


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class RolloutIn(_Body):
    """One response to score."""

    group: str = Field(description="Names the prompt: the same for all responses to it.")
    response: str = Field(max_length=LONGEST_RESPONSE, description="Thinking and answer.")
    tokens: int = Field(ge=0, le=_MOST_TOKENS, description="Sampled tokens.")
    gold: str = Field(max_length=LONGEST_RESPONSE, description="The gold answer.")


class BatchIn(_Body):
    """A batch of whole groups, and how to reward it."""

    rule: OutcomeRule = "alpha"
    alpha: float = Field(default=0.0, ge=0, lt=1)
    max_tokens: int = Field(default=0, ge=0, le=_MOST_TOKENS)
    overlong_window: int = Field(default=0, ge=0, le=_MOST_TOKENS)
    normalise: bool = False
    marked: bool = Field(default=True, description="Responses close their thinking with </think>, or are wrong.")
    rollouts: list[RolloutIn] = Field(min_length=1, max_length=MOST_ROLLOUTS)


class BatchOut(BaseModel):
    """One entry for each rollout, in the order of the request."""

    correct: list[bool]
    rewards: list[float]
    advantages: list[float]


class _Keyed:
    """Middleware, because a dependency would be asked only when the whole body has been read and parsed."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app, self._expected = app, f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/rewards":
            sent = Headers(scope=scope).get("authorization", "")
            if not hmac.compare_digest(sent.encode(), self._expected):
                refusal = JSONResponse({"detail": f"send the key in {_KEY} as a bearer token"}, 401)
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _invalid(_: Request, error: Exception) -> Response:
    """The 422 without the values that were sent: not each of them is one that JSON has, or UTF-8."""
    assert isinstance(error, RequestValidationError)
    details = [{name: one[name] for name in ("loc", "msg", "type")} for one in error.errors()]
    return Response(json.dumps({"detail": details}), 422, media_type="application/json")


def create_app(key: str | None = None) -> FastAPI:
    """The server's application. With a key, each request for rewards must carry it as a bearer token."""
    app = FastAPI(title="Laconic rewards", docs_url=None, redoc_url=None)
    app.add_exception_handler(RequestValidationError, _invalid)
    if key is not None:
        app.add_middleware(_Keyed, key=key)

    @app.post("/rewards", responses=_ERRORS)
    def score(batch: BatchIn) -> BatchOut:
        """Rewards and leave-one-out advantages of a batch."""
        try:
            settings = Settings(
                batch.rule, batch.alpha, batch.max_tokens, batch.overlong_window, normalise=batch.normalise
            )
        except ValueError as error:  # what depends on two fields
            raise HTTPException(422, [{"loc": ["body"], "msg": str(error), "type": "value_error"}]) from error
        rollouts = [
            Rollout(one.group, is_right(one.response, one.gold, marked=batch.marked), one.tokens)
            for one in batch.rollouts
        ]
        return BatchOut(
            correct=[one.correct for one in rollouts],
            rewards=rewards(rollouts, settings).tolist(),
            advantages=advantages(rollouts, settings).tolist(),
        )

    @app.get("/health")
    def health() -> dict[str, str]:
        """The server is up."""
        return {"status": "ok"}

    return app


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m laconic_rewards.server", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8300, help="(default: %(default)s)")
    given = parser.parse_args()
    key = os.environ.get(_KEY) or None
    if key is None and not _is_loopback(given.host):
        parser.error(f"--host {given.host}: others can reach it, so set a key in {_KEY}, or listen on 127.0.0.1")
    uvicorn.run(create_app(key), host=given.host, port=given.port, log_level="warning")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


if __name__ == "__main__":
    main()
