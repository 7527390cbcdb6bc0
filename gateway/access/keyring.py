"""Whose request is this? The gateway's own copy of the keys, and the check of `Authorization` headers against it.

The copy is about one second behind Redis. It is also written to the state directory, so neither an outage of Redis nor
a restart during an outage changes who has access. Until the first key is created, every caller is let in, which is why
such a gateway listens on loopback only. After that, callers need a key even if all keys are revoked.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
from collections.abc import Collection
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from redis.exceptions import RedisError
from starlette.datastructures import Headers

from gateway import errors
from gateway.access import keys
from gateway.access.keys import Key, KeyTable
from gateway.store import connect
from gateway.supervision import BackgroundTask
from models.files import MIB, read_bounded, write_private

log = logging.getLogger(__name__)

COPY = "keys.json"
MAX_COPY_BYTES = 64 * MIB
REFRESH_SECONDS = 1.0
ANONYMOUS = Key.model_construct(name="", sha256="", hint="", created=0.0, admin=True)
"""The caller of a gateway that has never had a key."""

_TABLE = TypeAdapter(KeyTable)


class Keyring:
    """The keys, as this gateway knows them now."""

    def __init__(self, redis_url: str, state_dir: Path, checkpoints: Collection[str] | None = None) -> None:
        """`checkpoints` are the family's: keys that name others are logged. None: nothing is logged."""
        self._checkpoints = checkpoints
        self.redis = connect(redis_url)
        self._copy = state_dir / COPY
        self._table: KeyTable | None = None
        self._reader = keys.Reader()
        self._by_digest: dict[str, Key] = {}
        self._refreshing: BackgroundTask | None = None

    @property
    def requires_key(self) -> bool:
        """Whether callers need a key: at least one has been created. False also if the keys were never read."""
        return self._table is not None and self._table.version > 0

    @property
    def is_shared(self) -> bool:
        """Whether there is more than one key, so that each gets its share of the gateway."""
        return len(self.keys) > 1

    @property
    def keys(self) -> tuple[Key, ...]:
        """All valid keys."""
        return self._table.keys if self._table else ()

    async def start(self) -> None:
        """Read the keys, and keep reading them. Redis need not be up."""
        await self.read()
        self._refreshing = BackgroundTask("keys", self._keep_refreshing)

    async def read(self) -> None:
        """Read the keys from Redis, or from the copy in the state directory if Redis is down."""
        try:
            self._use(_TABLE.validate_json(read_bounded(self._copy, MAX_COPY_BYTES, os.O_NOFOLLOW)))
        except FileNotFoundError:
            pass
        except (OSError, ValidationError) as error:
            log.error("%s cannot be read: %s", self._copy, type(error).__name__)
        await self._try_refresh()

    async def aclose(self) -> None:
        """Stop reading the keys."""
        if self._refreshing is not None:
            await self._refreshing.stop()
        await self.redis.aclose()

    async def refresh(self) -> None:
        """Read the keys from Redis if they have changed.

        Raises:
            RedisError, OSError: Redis is down.
        """
        if self._table is not None and await keys.version(self.redis) == self._table.version:
            return
        table = await self._reader.load(self.redis)
        if self._table is not None and table.version < self._table.version:
            if table.version == 0:
                return  # a Redis that lost its data must not give everyone access
            log.error("Redis has older keys than this gateway: version %d, had %d", table.version, self._table.version)
        self._use(table)
        self._write_copy(table)

    def authenticate(self, headers: Headers) -> Key:
        """Return the key that a request was sent with, or `ANONYMOUS` if there has never been a key.

        Raises:
            ApiError: 401 if the key is missing or invalid; 503 if the keys have not been read yet.
        """
        if self._table is None:
            raise errors.unavailable("Redis, which stores the keys, is not available.", code="keys_unavailable")
        if not self._table.version:
            return ANONYMOUS
        bearers = headers.getlist("authorization")
        plain = headers.getlist("x-api-key")  # Anthropic's SDKs send this one, and some callers both
        values = {*bearers, *(f"Bearer {secret}" for secret in plain)}
        is_one = len(values) == 1 and len(bearers) <= 1 and len(plain) <= 1
        scheme, _, secret = values.pop().partition(" ") if is_one else ("", "", "")
        if scheme.lower() != "bearer" or not secret:
            raise errors.unauthorized(
                "Send exactly one key, in the header Authorization: Bearer KEY, or in x-api-key: KEY."
            )
        fingerprint = keys.digest(secret.strip())
        key = self._by_digest.get(fingerprint)
        if key is None or not hmac.compare_digest(key.sha256, fingerprint):
            raise errors.unauthorized("This key is not valid.")
        return key

    def authenticate_admin(self, headers: Headers) -> Key:
        """Return the key of an admin.

        Raises:
            ApiError: as `authenticate` raises; 403 if the key is not an admin key.
        """
        key = self.authenticate(headers)
        if not key.admin:
            raise errors.forbidden("This needs an admin key.")
        return key

    async def _keep_refreshing(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            await self._try_refresh()

    async def _try_refresh(self) -> None:
        try:
            await self.refresh()
        except (RedisError, OSError) as error:
            log.debug("the keys cannot be read from Redis: %s", error)

    def _use(self, table: KeyTable) -> None:
        if (names := self._checkpoints) is not None:
            for key in table.keys:
                gone = sorted({*(key.checkpoints or ())}.difference(names))
                if gone and self._by_digest.get(key.sha256) != key:
                    log.warning("key %s may use %s, which the family does not have", key.name, ", ".join(gone))
        self._table = table
        self._by_digest = {key.sha256: key for key in table.keys}

    def _write_copy(self, table: KeyTable) -> None:
        """Replace the copy in the state directory atomically. Several workers write the same one."""
        try:
            write_private(self._copy, _TABLE.dump_json(table))
        except OSError as error:
            log.error("%s cannot be written: %s", self._copy, error)
