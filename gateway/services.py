"""Which parts of the gateway outlive a request? Made once per process, shared by every request."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from gateway.access import prices
from gateway.access.keyring import Keyring
from gateway.access.limits import Limiter
from gateway.access.prices import Prices
from gateway.answer import counting
from gateway.answer.counting import TokenCounter
from gateway.config import ConfigError, Settings
from gateway.engines import credentials
from gateway.engines.abilities import Abilities
from gateway.engines.credentials import CredentialsError
from gateway.engines.pool import Engines, Timeouts
from gateway.ledger.ledger import Ledger
from gateway.memory import Memory
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracing
from gateway.request.admission import Admission
from gateway.routing.floor import floor_of
from gateway.supervision import guard
from models.family import Family, FamilyError
from models.floor import Floor
from models.profile import Profile


@dataclass
class Profiles:
    """The profile of now, which a reload replaces."""

    current: Profile


@dataclass(frozen=True)
class Services:
    """What a request needs of the gateway that serves it."""

    settings: Settings
    family: Family
    profiles: Profiles
    engines: Engines
    keyring: Keyring
    limiter: Limiter
    ledger: Ledger
    metrics: Metrics
    tracing: Tracing
    counter: TokenCounter
    admission: Admission
    memory: Memory
    prices: Prices = field(default_factory=lambda: Prices(None))
    abilities: Abilities = field(default_factory=Abilities)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the gateway is told to stop, for responses that would never end."""

    @classmethod
    def create(cls, settings: Settings, family: Family, profile: Profile, worker: int = 0) -> Services:
        """The services of one process. `settings` name the engines and the Redis; nothing is connected yet.

        Args:
            worker: tells processes apart that share a state directory.

        Raises:
            FamilyError: the family's tokenizer cannot be counted with, or its profile is of other checkpoints.
            ProfileError: the profile was not tested at the quality floor.
            PricesError: the prices file cannot be used.
            ConfigError: traces are to be exported and the SDK for that is not installed; or what engines want cannot be
                used.
        """
        assert settings.redis is not None
        check_profile(profile, family, settings.family / family.profile)
        floor_of(settings.quality_floor, profile.floors)
        engines = connect_engines(settings, family)
        names = frozenset(checkpoint.name for checkpoint in family.checkpoints)
        limiter = Limiter(settings.redis, settings.state_dir, worker)
        ledger = Ledger(settings.redis, settings.state_dir, settings.ledger_max_entries, worker)
        return cls(
            settings=settings,
            family=family,
            profiles=Profiles(profile),
            engines=engines,
            keyring=Keyring(settings.redis, settings.state_dir, names if worker == 0 else None),  # one says it
            limiter=limiter,
            ledger=ledger,
            metrics=Metrics(ledger=ledger, limiter=limiter, engines=engines, worker=worker),
            tracing=Tracing(settings.otlp_endpoint),
            counter=_counter(settings, family),
            admission=Admission(settings.max_concurrency, settings.max_body_bytes),
            memory=Memory(settings.redis, names),
            prices=Prices(prices.load(settings.prices, family)),
        )

    @property
    def profile(self) -> Profile:
        """The difficulty profile of now."""
        return self.profiles.current

    @property
    def floor(self) -> Floor | None:
        """What the profile of now certifies for the quality floor; None if there is none to keep."""
        return floor_of(self.settings.quality_floor, self.profile.floors)

    async def start(self) -> None:
        """Start every service that has connections or tasks. Redis and engines need not be up yet."""
        for service in (self.tracing, self.ledger, self.limiter, self.keyring, self.memory, self.engines, self.metrics):
            await service.start()

    async def aclose(self) -> None:
        """Stop them in reverse order: metrics read the engines, and the ledger is flushed late.

        One that fails to stop does not keep the others from stopping.
        """
        stopping = (self.metrics, self.engines, self.memory, self.keyring, self.limiter, self.ledger, self.tracing)
        for service in stopping:
            await guard(f"stop {type(service).__name__.lower()}", service.aclose())


def connect_engines(settings: Settings, family: Family) -> Engines:
    """The engines that the settings name; nothing is connected yet.

    Raises:
        ConfigError: a key, a header or a certificate for them cannot be used.
    """
    timeouts = Timeouts(
        connect=settings.connect_timeout_seconds,
        first_token=settings.first_token_timeout_seconds,
        idle=settings.idle_timeout_seconds,
    )
    try:
        access = credentials.load(settings.engine_key_file, settings.engine_header, settings.engine_ca)
    except CredentialsError as error:
        raise ConfigError(str(error)) from None
    return Engines(settings.engine, family, settings.engine_family or settings.family, timeouts, access)


def check_profile(profile: Profile, family: Family, path: Path) -> None:
    """Raise FamilyError unless the profile at the path is about the family's checkpoints."""
    if unlike := sorted(set(profile.checkpoints) ^ {checkpoint.name for checkpoint in family.checkpoints}):
        raise FamilyError(f"{path}: {unlike[0]} is either in the profile or in the family, but not in both")


def _counter(settings: Settings, family: Family) -> TokenCounter:
    """Counts with the family's tokenizer, or roughly if the family has none."""
    if family.tokenizer is None:
        return counting.rough()
    return counting.load(settings.family / family.tokenizer, family.tokenizer_pattern)
