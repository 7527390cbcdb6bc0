"""What does SIGHUP change? Keys, profile, prices, log level and engines' certificates. It never stops a stream.

What cannot be used is left as it was, and the log says so in the one line that a reload writes.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable

from redis.exceptions import RedisError

from gateway.access import prices
from gateway.access.prices import PricesError
from gateway.config import ConfigError
from gateway.observe import logs
from gateway.routing.floor import floor_of
from gateway.services import Services, check_profile
from gateway.supervision import BackgroundTask
from models import family as families
from models import profile as profiles
from models.family import FamilyError
from models.files import sha256
from models.profile import Profile
from models.stored import ProfileError

log = logging.getLogger(__name__)

ReadLevel = Callable[[], str]
"""Reads the log level again from where it was configured. Raises ConfigError."""


class Reloader:
    """Reloads when it is asked to. Several requests at once are one."""

    def __init__(self, services: Services, read_level: ReadLevel) -> None:
        self._services, self._read_level = services, read_level
        self._asked = asyncio.Event()
        self._task: BackgroundTask | None = None

    def start(self) -> None:
        """Begin to wait for requests."""
        self._task = BackgroundTask("reload", self._run)

    def ask(self) -> None:
        """Reload soon. To be called from a signal handler."""
        self._asked.set()

    async def aclose(self) -> None:
        """Stop waiting."""
        if self._task is not None:
            await self._task.stop()

    async def _run(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            done = [await self._keys(), await self._profile(), *self._prices(), self._level(), self._tls()]
            log.warning("reloaded on SIGHUP: %s", "; ".join(done))

    async def _keys(self) -> str:
        try:
            await self._services.keyring.refresh()
        except (RedisError, OSError):
            return "keys stay as they are, because Redis is down"
        return "keys"

    async def _profile(self) -> str:
        try:  # in a thread, because it takes a while and streams must not wait
            profile = await asyncio.to_thread(self._load_profile)
        except (FamilyError, ProfileError, OSError) as error:
            return f"the profile stays as it is ({error})"
        self._services.profiles.current = profile
        return "profile"

    def _load_profile(self) -> Profile:
        directory = self._services.settings.family
        manifest = families.load(directory, verify=False)
        path = directory / manifest.profile
        if sha256(path) != manifest.all_files()[manifest.profile]:
            raise FamilyError(f"{path} differs from its SHA-256 in the manifest")
        profile = profiles.load(path, self._services.settings.encoder)
        check_profile(profile, self._services.family, path)
        floor_of(self._services.settings.quality_floor, profile.floors)
        return profile

    def _prices(self) -> list[str]:
        """One word, or none if there is no prices file."""
        if (path := self._services.settings.prices) is None:
            return []
        try:
            self._services.prices.current = prices.load(path, self._services.family)
        except PricesError as error:
            return [f"the prices stay as they are ({error})"]
        return ["prices"]

    def _level(self) -> str:
        try:
            level = self._read_level()
        except (ConfigError, OSError) as error:
            return f"the log level stays as it is ({error})"
        logs.set_level(level)
        return f"log level {level}"

    def _tls(self) -> str:
        try:
            self._services.engines.reload_tls()
        except (ssl.SSLError, OSError) as error:
            return f"certificates for engines stay as they are ({type(error).__name__})"
        return "certificates for engines"
