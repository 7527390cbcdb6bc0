"""Whose request is this? The gateway's own copy of the keys, and the check of an `Authorization` header against it.

The copy follows Redis about a second behind and is kept in the state directory, too, so that neither an outage of Redis
nor a restart during one opens the door or closes it. Where no key has ever been made every caller is let in, which is
why such a gateway listens on loopback only. Once there has been one, revoking the last leaves the door closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import os
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from redis.exceptions import RedisError
from starlette.datastructures import Headers

from gateway import errors
from gateway.access import keys
from gateway.access.keys import Key, Table
from gateway.store import connect

log = logging.getLogger(__name__)

COPY = "keys.json"
REFRESH_SECONDS = 1.0
ANONYMOUS = Key.model_construct(name="", sha256="", hint="", created=0.0, admin=True)
"""The caller of a gateway that has no keys."""

_TABLE = TypeAdapter(Table)


class Keyring:
    """The keys, as this gateway knows them now."""

    def __init__(self, redis_url: str, state_dir: Path) -> None:
        self.redis = connect(redis_url)
        self._copy = state_dir / COPY
        self._table: Table | None = None
        self._by_digest: dict[str, Key] = {}
        self._refreshing: asyncio.Task[None] | None = None

    @property
    def requires_key(self) -> bool:
        """Whether it is known that callers need a key, for there has been one."""
        return self._table is not None and self._table.version > 0

    @property
    def keys(self) -> tuple[Key, ...]:
        """All that are valid."""
        return self._table.keys if self._table else ()

    async def start(self) -> None:
        """Read the keys and keep reading; Redis need not be there."""
        await self.read()
        self._refreshing = asyncio.create_task(self._keep_refreshing(), name="keys")

    async def read(self) -> None:
        """Read the keys, from Redis or else as they were last seen."""
        try:
            self._take(_TABLE.validate_json(self._copy.read_bytes()))
        except FileNotFoundError:
            pass
        except (OSError, ValidationError) as error:
            log.error("%s cannot be read: %s", self._copy, type(error).__name__)
        await self._try_refresh()

    async def aclose(self) -> None:
        """Stop reading."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._refreshing
        await self.redis.aclose()

    async def refresh(self) -> None:
        """Follow Redis.

        Raises:
            RedisError, OSError: it is away.
        """
        if self._table is not None and await keys.version(self.redis) == self._table.version:
            return
        table = await keys.load(self.redis)
        if self._table is not None and table.version < self._table.version:
            if table.version == 0:
                return  # an emptied Redis must not open the door
            log.error("Redis has older keys than before: %d, after %d", table.version, self._table.version)
        self._take(table)
        self._keep(table)

    def authenticate(self, headers: Headers) -> Key:
        """The key that a request was sent with; `ANONYMOUS` where there are no keys.

        Raises:
            ApiError: 401, without a key or with one that is not valid; 503, the keys have not been read yet.
        """
        if self._table is None:
            raise errors.unavailable("Redis, which has the keys, does not answer now.", code="keys_unavailable")
        if not self._table.version:
            return ANONYMOUS
        given = headers.getlist("authorization")
        scheme, _, secret = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        if scheme.lower() != "bearer" or not secret:
            raise errors.unauthorized("Send a key once, in the header Authorization: Bearer KEY.")
        fingerprint = keys.digest(secret.strip())
        key = self._by_digest.get(fingerprint)
        if key is None or not hmac.compare_digest(key.sha256, fingerprint):
            raise errors.unauthorized("This key is not valid here.")
        return key

    def authenticate_admin(self, headers: Headers) -> Key:
        """The same, of a caller who may see and change what is everybody's.

        Raises:
            ApiError: as above; 403, the key is not an admin's.
        """
        key = self.authenticate(headers)
        if not key.admin:
            raise errors.forbidden("This needs an admin's key.")
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

    def _take(self, table: Table) -> None:
        self._table = table
        self._by_digest = {key.sha256: key for key in table.keys}

    def _keep(self, table: Table) -> None:
        """Write the copy, whole or not at all."""
        new = self._copy.with_suffix(f".{os.getpid()}")  # several workers keep the same copy
        try:
            new.touch(mode=0o600)
            new.write_bytes(_TABLE.dump_json(table))
            new.replace(self._copy)
        except OSError as error:
            log.error("%s cannot be written: %s", self._copy, error)
