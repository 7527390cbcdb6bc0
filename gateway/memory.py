"""Which checkpoint answered a conversation's last turn? Kept in Redis for a while, for all gateways; no text is.

Nothing depends on it. Without Redis, a turn is routed by itself, and Redis is not asked again for a while.
"""

from __future__ import annotations

import asyncio
import logging
import time

from pydantic import TypeAdapter, ValidationError
from redis.exceptions import RedisError

from gateway.request.conversation import Conversation
from gateway.routing.conversation import LastTurn
from gateway.store import connect
from gateway.supervision import BackgroundTask

log = logging.getLogger("laconic")

KEY = "{{laconic:conversations}}:{id}"
KNOWN_SECONDS, FIRST_SECONDS = 3600, 600
"""How long a turn is remembered, and how long a first one: most of those have no second."""
READ_SECONDS = 0.25
"""How long a request waits for Redis at most."""
PAUSE_SECONDS = 2.0
"""How long Redis is left alone after it has failed."""
MAX_PENDING = 10_000
"""Turns that wait to be written; further ones are forgotten."""
BATCH = 500
GATHER_SECONDS = 0.02
"""How long to gather turns before a write: it costs more than they do. Meanwhile they are read from here."""


_TURN = TypeAdapter(LastTurn)


class Memory:
    """The last turns of conversations."""

    def __init__(self, redis_url: str, checkpoints: frozenset[str]) -> None:
        """`checkpoints` are the family's; what is remembered of others is not used."""
        self._redis = connect(redis_url)
        self._checkpoints = checkpoints
        self._pending: dict[str, tuple[LastTurn, int]] = {}
        self._wake = asyncio.Event()
        self._paused_until = 0.0
        self._writing: BackgroundTask | None = None

    async def start(self) -> None:
        """Begin to write. Redis need not be up."""
        self._writing = BackgroundTask("conversations", self._keep_writing)

    async def aclose(self) -> None:
        """Write what is pending, and disconnect."""
        if self._writing is not None:
            await self._writing.stop()
            await self._write()
        await self._redis.aclose()

    def remember(self, conversation: Conversation, turn: LastTurn) -> None:
        """Note a turn that has ended. It is written soon, behind the request."""
        if len(self._pending) < MAX_PENDING:
            seconds = KNOWN_SECONDS if conversation.may_be_known else FIRST_SECONDS
            self._pending[conversation.id] = turn, seconds
            self._wake.set()

    async def recall(self, conversation: Conversation) -> LastTurn | None:
        """The last turn; None if there was none, or if it is not known."""
        if not conversation.may_be_known:
            return None
        if pending := self._pending.get(conversation.id):
            return pending[0]
        if time.monotonic() < self._paused_until:
            return None
        try:
            async with asyncio.timeout(READ_SECONDS):
                stored = await self._redis.get(KEY.format(id=conversation.id))
            turn = None if stored is None else _TURN.validate_json(stored)
        except (RedisError, OSError) as error:  # a timeout included
            self._pause(error)
            return None
        except ValidationError:  # another version's
            return None
        return turn if turn is not None and turn.checkpoint in self._checkpoints else None

    async def _keep_writing(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(GATHER_SECONDS)
            await self._write()
            if (left := self._paused_until - time.monotonic()) > 0:
                await asyncio.sleep(left)

    async def _write(self) -> None:
        """Write all that is pending, which can be read here until Redis has it. What Redis refuses is forgotten."""
        self._wake.clear()
        while self._pending:
            batch = dict(list(self._pending.items())[:BATCH])
            try:
                async with self._redis.pipeline(transaction=False) as pipeline:
                    for name, (turn, seconds) in batch.items():
                        pipeline.set(KEY.format(id=name), _TURN.dump_json(turn), ex=seconds)
                    await pipeline.execute()
            except (RedisError, OSError) as error:
                self._pause(error)
                self._pending.clear()
                return
            finally:
                for name, written in batch.items():
                    if self._pending.get(name) is written:  # not remembered anew meanwhile
                        del self._pending[name]

    def _pause(self, error: Exception) -> None:
        if time.monotonic() >= self._paused_until:
            log.warning("conversations are not remembered while Redis does not answer: %s", type(error).__name__)
        self._paused_until = time.monotonic() + PAUSE_SECONDS
