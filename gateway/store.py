"""How is Redis reached? The one client that ledger, keys and limits use."""

from __future__ import annotations

from pathlib import Path

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


def connect(url: str) -> Redis:
    """A client that gives up quickly and does not retry; its users decide when to try again."""
    return Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
        url, decode_responses=True, socket_connect_timeout=1.0, socket_timeout=2.0, retry=Retry(NoBackoff(), 0)
    )


def embedded_url(state_dir: Path) -> str:
    """The URL of a state directory's embedded Redis, whether it runs or not."""
    return f"unix://{state_dir / 'redis.sock'}"
