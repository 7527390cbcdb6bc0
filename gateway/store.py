"""How is Redis reached? The one client that ledger, keys and limits use."""

from __future__ import annotations

from pathlib import Path

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

CONNECT_SECONDS, ANSWER_SECONDS = 1.0, 2.0
PATIENT_SECONDS = 20.0


def connect(url: str, *, patient: bool = False) -> Redis:
    """A client that does not retry; its users decide when to try again.

    It gives up after `CONNECT_SECONDS` or `ANSWER_SECONDS`, because a request waits for it.

    Args:
        patient: give up after `PATIENT_SECONDS`, for a process of low priority: on a busy machine it is not run for
            seconds, and would take that for a server that is silent.
    """
    connecting, answering = (PATIENT_SECONDS,) * 2 if patient else (CONNECT_SECONDS, ANSWER_SECONDS)
    return Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
        url,
        decode_responses=True,
        socket_connect_timeout=connecting,
        socket_timeout=answering,
        retry=Retry(NoBackoff(), 0),
    )


def embedded_url(state_dir: Path) -> str:
    """The URL of a state directory's embedded Redis, whether it runs or not."""
    return f"unix://{state_dir / 'redis.sock'}"
