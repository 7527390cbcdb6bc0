"""What may an operator set, and where? The one schema behind `laconic serve`'s flags, environment and TOML file.

`load` takes the highest of: flags, `LACONIC_*` in the environment, the file named by `--config`, the default. What is
wrong is refused before anything starts, in one line that names the field.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)
from redis.asyncio import ConnectionPool

import models
from gateway.request import budget
from models.field import path_of

EXAMPLES = """examples:
  laconic serve                                     everything embedded: vLLM on the shipped family, and a Redis
  laconic serve --engine http://gpu1:8000 --engine http://gpu2:8000 --redis redis://cache:6379/0 --family ./my-family
                                                    the engines, the Redis and the family you already have
  laconic serve --default-budget low                callers who name no budget get the family's measured `low`
  laconic serve --config laconic.toml               port = 9000, engine = ["http://gpu1:8000"], ... in a file
  LACONIC_PORT=9000 laconic serve                   every flag has its environment variable

Flags win over the environment, the environment over the file."""

_METAVARS = {"list[str]": "URL", "Path": "PATH", "int": "N", "float": "X", "str": "TEXT"}


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one line that names the field."""


def shipped_family() -> Path:
    """Where the family that comes with the package lies."""
    return Path(models.__file__).parent / "abacus"


def default_state_dir() -> Path:
    """`$XDG_STATE_HOME/laconic`, which is `~/.local/state/laconic` where nothing is set."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "laconic"


class _ConfigFile(PydanticBaseSettingsSource):
    """The TOML file that a flag or the environment named; the sources before this one have said which."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # the file is read as a whole

    def __call__(self) -> dict[str, Any]:
        path = self.current_state.get("config")
        if path is None:
            return {}
        try:
            values = tomllib.loads(Path(path).expanduser().read_text())
        except OSError as error:
            raise ConfigError(f"config: {path} cannot be read ({error.strerror})") from None
        except ValueError as error:
            raise ConfigError(f"config: {path} is not TOML ({error})") from None
        if "config" in values:
            raise ConfigError(f"config: {path} names a file again")
        return values


class Settings(BaseSettings):
    """Serve a family of reasoning models through one OpenAI-compatible endpoint that routes, caps and counts."""

    model_config = SettingsConfigDict(
        env_prefix="LACONIC_", frozen=True, extra="forbid", cli_kebab_case=True, allow_inf_nan=False
    )

    host: str = Field(default="127.0.0.1", description="address to listen on; loopback only while there are no keys")
    port: int = Field(default=8080, ge=1, le=65535, description="port to listen on")
    family: Path = Field(
        default_factory=shipped_family, description="directory of the family to serve; none: the shipped abacus"
    )
    engine: Annotated[list[str], NoDecode] = Field(
        default_factory=list, description="URL of a running vLLM; repeat for several; none: one is started"
    )
    engine_family: Path | None = Field(
        default=None, description="the family's directory as engines see it, for adapters they lack; none: the same"
    )
    redis: str | None = Field(default=None, description="URL of a running Redis; none: one is started")
    state_dir: Path = Field(
        default_factory=default_state_dir,
        description="directory for logs, the embedded Redis' data and the spool; none: $XDG_STATE_HOME/laconic",
    )
    default_budget: Annotated[str, AfterValidator(budget.validate_budget)] = Field(
        default="auto",
        description="budget of callers who name none: tokens, auto, none, minimal, low, medium, high, xhigh, max",
    )
    quality_tolerance: float = Field(
        default=0.005, ge=0, le=1, description="how much predicted success a cheaper checkpoint may give away"
    )
    overload_tolerance: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="added to quality_tolerance as requests in flight go from half to all of max_concurrency",
    )
    holdout_fraction: float = Field(
        default=0.02, ge=0, le=1, description="share of requests sent to the reference checkpoint to measure savings"
    )
    ledger_max_entries: int = Field(
        default=1_000_000, gt=0, description="requests kept one by one; sums by hour are kept for 400 days"
    )
    limits_when_store_is_down: Literal["open", "closed"] = Field(
        default="open", description="while Redis is away, callers whose keys have limits are let in, or refused"
    )
    workers: int = Field(default=1, ge=1, le=256, description="processes that answer on the one port")
    max_body_bytes: int = Field(default=1_048_576, gt=0, description="largest request body")
    max_concurrency: int = Field(
        default=256, gt=0, description="requests in flight in a worker; more are told to come back"
    )
    connect_timeout_seconds: float = Field(default=2.0, gt=0, description="for a connection to an engine")
    first_token_timeout_seconds: float = Field(default=120.0, gt=0, description="for an engine's first byte")
    idle_timeout_seconds: float = Field(default=60.0, gt=0, description="for an engine's next byte")
    send_timeout_seconds: float = Field(default=30.0, gt=0, description="for a caller to take or send what is due")
    drain_seconds: float = Field(default=20.0, ge=0, description="for streams to end when the gateway is told to stop")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="how much to log")
    log_format: Literal["text", "json"] = Field(default="text", description="how to log it")
    otlp_endpoint: str | None = Field(
        default=None, description="URL of an OpenTelemetry collector, http://localhost:4318 for one; none: no traces"
    )
    config: Path | None = Field(default=None, description="TOML file with any of these settings")

    @field_validator("host")
    @classmethod
    def _address(cls, host: str) -> str:
        try:
            return str(ipaddress.ip_address("127.0.0.1" if host == "localhost" else host))
        except ValueError:
            raise ValueError(f"{host!r} is no IP address, such as 127.0.0.1, 0.0.0.0 or ::") from None

    @field_validator("engine", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [url for url in re.split(r"[,\s]+", value) if url] if isinstance(value, str) else value

    @field_validator("engine")
    @classmethod
    def _engine_urls(cls, urls: list[str]) -> list[str]:
        checked = [_url(url, ("http", "https")).rstrip("/").removesuffix("/v1") for url in urls]
        if len(set(checked)) < len(checked):
            raise ValueError("the same URL twice")
        if any(urlsplit(url).username is not None for url in checked):
            # It would be logged, and not be sent.
            raise ValueError("a user name in the URL of an engine is not supported")
        return checked

    @field_validator("otlp_endpoint")
    @classmethod
    def _otlp_url(cls, url: str | None) -> str | None:
        return None if url is None else _url(url, ("http", "https"))

    @field_validator("redis")
    @classmethod
    def _redis_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(_url(url, ("redis", "rediss", "unix")))
        if parts.scheme != "unix" and not re.fullmatch(r"(/[0-9]*)?", parts.path):
            raise ValueError(f"{redact_url(url)!r}: the path {parts.path!r} is no database's number")
        try:
            # Which does not connect yet.
            ConnectionPool.from_url(url).make_connection()  # pyright: ignore[reportUnknownMemberType]
        except (ValueError, TypeError) as error:
            raise ValueError(f"{redact_url(url)!r} cannot be used: {error}") from None
        return url

    @field_validator("family", "state_dir")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return path.expanduser().absolute()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _ConfigFile(settings_cls)


def load(arguments: Sequence[str]) -> Settings:
    """The settings from `laconic serve`'s arguments, the environment and the file they name; `--help` prints and exits.

    Raises:
        ConfigError: an unknown flag or key, or a value that is wrong.
    """
    parser = _Parser(
        prog="laconic serve",
        description=Settings.__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags: CliSettingsSource[_Parser] = CliSettingsSource(
        Settings, root_parser=parser, cli_hide_none_type=True, cli_avoid_json=True, add_argument_method=_add_argument
    )
    try:
        return Settings(_cli_settings_source=flags(args=list(arguments)))  # pyright: ignore[reportCallIssue]
    except ValidationError as error:
        first = error.errors()[0]
        field = path_of(first["loc"])
        reason = "no such setting" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{field}: {reason}") from None
    except SettingsError as error:
        raise ConfigError(" ".join(str(error).split())) from None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def _add_argument(parser: _Parser, *names: str, **options: Any) -> argparse.Action:
    """Say `URL` where pydantic-settings says `list[str]`, and no default where it is in the words already."""
    if "metavar" in options:
        options["metavar"] = _METAVARS.get(options["metavar"], options["metavar"])
    options["help"] = re.sub(r" \(default(: None| factory:.*)\)$", "", options.get("help", ""))
    return parser.add_argument(*names, **options)


def redact_url(url: str) -> str:
    """A URL without its user and password, for messages."""
    secret, at, _ = urlsplit(url).netloc.rpartition("@")
    return url.replace(f"{secret}{at}", "", 1)


def _url(url: str, schemes: tuple[str, ...]) -> str:
    parts = urlsplit(url)
    try:
        usable = parts.scheme in schemes and bool(parts.netloc or parts.scheme == "unix") and parts.port != 0
    except ValueError:  # a port that is no number
        usable = False
    if not usable:
        begins = " or ".join(f"{scheme}://" for scheme in schemes)
        raise ValueError(f"{redact_url(url)!r} is not a URL that starts with {begins}")
    return url
