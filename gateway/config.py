"""What can an operator configure, and where? One schema for flags, environment variables and TOML files.

`load` reads each setting from the first place that has it: flags, `LACONIC_*` environment variables, the file given by
`--config`, the default. Invalid settings are reported before anything starts, in one line that names the field.
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

from pydantic import AfterValidator, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    CliImplicitFlag,
    CliSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

import models
from gateway import more_args
from gateway.request import browsers, budget
from gateway.urls import checked_redis_url, checked_url
from models import endpoint
from models.field import one_line, path_of
from models.files import MIB, read_bounded

EXAMPLES = """examples:
  laconic serve                                     start vLLM on the shipped family, Redis and the gateway
  laconic serve --engine http://gpu1:8000 --engine http://gpu2:8000 --redis redis://cache:6379/0 --family ./my-family
                                                    use your own engines, Redis and family
  laconic serve --default-budget low                cap requests without a budget at the family's measured `low`
  laconic serve --engine-args="--max-num-seqs 64"   give the vLLM that is started more arguments
  laconic serve --config laconic.toml               read settings from a file: port = 9000, engine = ["http://gpu1:8000"]
  LACONIC_PORT=9000 laconic serve                   every flag has an environment variable

Flags override environment variables, which override the file."""

_METAVARS = {"list[str]": "URL", "Path": "PATH", "int": "N", "float": "X", "str": "TEXT"}
MAX_CONFIG_BYTES = MIB
WAIT_SECONDS = 600
"""Of --wait-for-engines without a number."""
_URL_FLAGS = ("--redis", "--otlp-endpoint")
_NAME_FLAGS = ("--allow-field",)
_TEXT_FLAGS = ("--engine-header",)


class ConfigError(ValueError):
    """The configuration cannot be used. The message is one line that names the field."""


def shipped_family() -> Path:
    """The directory of the family that ships with the package."""
    return Path(models.__file__).parent / "abacus"


def default_state_dir() -> Path:
    """`$XDG_STATE_HOME/laconic`, or `~/.local/state/laconic` if the variable is not set."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "laconic"


class _ConfigFile(PydanticBaseSettingsSource):
    """The TOML file that a flag or the environment names. Those sources are read before this one."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # the file is read as a whole

    def __call__(self) -> dict[str, Any]:
        path = self.current_state.get("config")
        if path is None:
            return {}
        try:
            values = tomllib.loads(read_bounded(Path(path).expanduser(), MAX_CONFIG_BYTES).decode())
        except OSError as error:
            raise ConfigError(f"config: cannot read {path} ({error.strerror})") from None
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"config: {path} is not TOML ({one_line(str(error))})") from None
        except RuntimeError as error:  # there is no such user, whose home the path would be in
            raise ConfigError(f"config: cannot read {path} ({error})") from None
        if "config" in values:
            raise ConfigError(f"config: {path} must not name another configuration file")
        return values


class Settings(BaseSettings):
    """Serve a family of reasoning models through one OpenAI-compatible endpoint that routes, caps and counts."""

    model_config = SettingsConfigDict(
        env_prefix="LACONIC_", frozen=True, extra="forbid", cli_kebab_case=True, allow_inf_nan=False
    )

    host: str = Field(default="127.0.0.1", description="IP address to listen on; must be loopback until there is a key")
    port: int = Field(default=8080, ge=1, le=65535, description="port to listen on")
    family: Path = Field(
        default_factory=shipped_family, description="directory of the family to serve; default: the shipped abacus"
    )
    engine: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="URL of a running engine, with or without /v1; repeat for several; default: start vLLM",
    )
    engine_args: str | None = Field(
        default=None, description="more arguments for the vLLM that is started, as in a shell; see the examples"
    )
    engine_key_file: Path | None = Field(
        default=None,
        description="file with the engines' key, or with lines of an engine's URL and its key; default: the environment"
        " variable LACONIC_ENGINE_KEY",
    )
    engine_header: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="header for every engine, as NAME: VALUE; repeat for several; one a line in the environment",
    )
    engine_ca: Path | None = Field(
        default=None, description="file with certificates of the engines' authority; default: the system's"
    )
    encoder: Path | None = Field(
        default=None, description="directory of the sentence encoder, if the profile needs one; default: as installed"
    )
    engine_family: Path | None = Field(
        default=None,
        description="directory of the family as the engines see it, for loading missing adapters; default: --family",
    )
    wait_for_engines: float | None = Field(
        default=None,
        gt=0,
        description="start only when every checkpoint has an engine, and give up after so many seconds (600 without a"
        " number); default: start at once",
    )
    redis: str | None = Field(default=None, description="URL of a running Redis; default: start one")
    state_dir: Path = Field(
        default_factory=default_state_dir,
        description="directory for logs, the embedded Redis' data and ledger entries that wait for Redis; default:"
        " $XDG_STATE_HOME/laconic",
    )
    prices: Path | None = Field(default=None, description="YAML file with the checkpoints' prices; default: none")
    default_budget: Annotated[str, AfterValidator(budget.validate_budget)] = Field(
        default="auto",
        description="budget of requests that set none: tokens, auto, none, minimal, low, medium, high, xhigh or max",
    )
    quality_tolerance: float = Field(
        default=0.005, ge=0, le=1, description="how much predicted success a cheaper checkpoint may cost, from 0 to 1"
    )
    quality_floor: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="share of the reference's quality to keep with 95 % confidence, such as 0.99; sets the tolerance",
    )
    overload_tolerance: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="extra tolerance under load: it grows from 0 at half of max_concurrency to this value at all of it",
    )
    holdout_fraction: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="share of routed requests sent to the reference checkpoint instead, to measure savings",
    )
    shadow_fraction: float = Field(
        default=0, ge=0, le=1, description="share of routed requests that the reference answers, too, to compare both"
    )
    shadow_concurrency: int = Field(default=2, gt=0, description="comparisons at once in a worker; more are skipped")
    judge: str | None = Field(
        default=None, min_length=1, description="model of the engines that says which answer is better; default: none"
    )
    dashboard: CliImplicitFlag[bool] = Field(
        default=True, description="whether GET /dashboard shows the savings as a page"
    )
    conversations: CliImplicitFlag[bool] = Field(
        default=True,
        description="whether a conversation keeps its checkpoint and its engine while that saves more than it costs",
    )
    ledger_max_entries: int = Field(
        default=1_000_000, gt=0, description="individual requests to keep; sums by hour are kept for 400 days"
    )
    limits_when_store_is_down: Literal["open", "closed"] = Field(
        default="open",
        description="while Redis is down, accept (open) or refuse (closed) requests with keys that have limits",
    )
    when_books_cannot_be_kept: Literal["serve", "refuse"] = Field(
        default="serve",
        description="what to do with chat requests while a kill would lose entries: the disk is full and Redis is down",
    )
    workers: int = Field(default=1, ge=1, le=256, description="processes that share the port")
    max_body_bytes: int = Field(default=1_048_576, gt=0, description="largest accepted request body")
    max_concurrency: int = Field(
        default=256, gt=0, description="requests in flight per worker; beyond that, callers get 429"
    )
    allow_field: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="body field that callers may set besides those on the gateway's list, such as priority; repeat for"
        " several",
    )
    cors_origin: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="origin of a web page that may read answers, such as https://app.example.com; repeat for several;"
        " default: none",
    )
    max_connections: int = Field(
        default=4096,
        gt=0,
        description="open connections per worker; fewer if the limit on open files (`ulimit -n`) does not allow it",
    )
    max_connections_per_address: int = Field(
        default=1024,
        gt=0,
        description="open connections per worker and caller's address; raise it behind a proxy, which is one address",
    )
    connect_timeout_seconds: float = Field(default=2.0, gt=0, description="timeout for connecting to an engine")
    first_token_timeout_seconds: float = Field(
        default=120.0, gt=0, description="timeout for the first byte of an engine's stream"
    )
    idle_timeout_seconds: float = Field(default=60.0, gt=0, description="timeout for each further byte of a stream")
    head_timeout_seconds: float = Field(
        default=10.0, gt=0, description="timeout for a caller to send a request's headers"
    )
    send_timeout_seconds: float = Field(
        default=30.0, gt=0, description="timeout for a caller to send its request or to read what it was sent"
    )
    drain_seconds: float = Field(
        default=20.0, ge=0, description="how long streams may go on after the gateway is told to stop"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least severe level logged"
    )
    log_format: Literal["text", "json"] = Field(default="text", description="format of log lines")
    otlp_endpoint: str | None = Field(
        default=None, description="URL of an OpenTelemetry collector, such as http://localhost:4318; default: none"
    )
    config: Path | None = Field(default=None, description="TOML file with any of these settings")

    @field_validator("host")
    @classmethod
    def _address(cls, host: str) -> str:
        try:
            return str(ipaddress.ip_address("127.0.0.1" if host == "localhost" else host))
        except ValueError:
            raise ValueError(f"{host!r} is not an IP address such as 127.0.0.1, 0.0.0.0 or ::") from None

    @field_validator("engine", "allow_field", "cors_origin", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [item for item in re.split(r"[,\s]+", value) if item] if isinstance(value, str) else value

    @field_validator("engine_header", mode="before")
    @classmethod
    def _lines(cls, value: object) -> object:
        return [line.strip() for line in value.splitlines() if line.strip()] if isinstance(value, str) else value

    @field_validator("engine")
    @classmethod
    def _engine_urls(cls, urls: list[str]) -> list[str]:
        checked = [endpoint.engine_url(url) for url in urls]
        if len(set(checked)) < len(checked):
            raise ValueError("the same URL is given twice")
        return checked

    @field_validator("allow_field")
    @classmethod
    def _field_names(cls, names: list[str]) -> list[str]:
        if wrong := [name for name in names if not re.fullmatch(r"\w[\w.-]{0,99}", name)]:
            raise ValueError(f"{wrong[0]!r} is not a field's name such as priority or chat_template_kwargs.documents")
        return names

    @field_validator("engine_args")
    @classmethod
    def _engine_words(cls, text: str | None) -> str | None:
        if text is not None:
            more_args.words(text)
        return text

    @field_validator("engine_header")
    @classmethod
    def _headers(cls, headers: list[str]) -> list[str]:
        endpoint.headers(headers)
        return headers

    @field_validator("cors_origin")
    @classmethod
    def _origins(cls, origins: list[str]) -> list[str]:
        return [browsers.validate_origin(origin) for origin in origins]

    @field_validator("otlp_endpoint")
    @classmethod
    def _otlp_url(cls, url: str | None) -> str | None:
        return None if url is None else checked_url(url, ("http", "https"))

    @field_validator("redis")
    @classmethod
    def _redis_url(cls, url: str | None) -> str | None:
        return None if url is None else checked_redis_url(url)

    @field_validator("family", "state_dir", "engine_key_file", "engine_ca", "encoder", "prices")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser().absolute()

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


def require_one_tolerance(settings: Settings) -> None:
    """Raise ConfigError if a quality floor is set beside a tolerance that it would contradict."""
    if settings.quality_floor is None:
        return
    if "quality_tolerance" in settings.model_fields_set:
        raise ConfigError(
            "quality_floor: quality_tolerance is set, too, and the floor chooses it; leave out one of them"
        )
    if settings.overload_tolerance > 0:
        raise ConfigError(
            "quality_floor: overload_tolerance is set, too, and would break the floor under load; leave out one of them"
        )


def require_shadows(settings: Settings) -> None:
    """Raise ConfigError if a setting for comparisons in the background is set, but none are made."""
    if settings.shadow_fraction > 0:
        return
    for name in ("judge", "shadow_concurrency"):
        if getattr(settings, name) != Settings.model_fields[name].default:
            raise ConfigError(
                f"{name}: has no effect, because no answers are compared; set shadow_fraction, too, or leave it out"
            )


def load(arguments: Sequence[str]) -> Settings:
    """Load the settings from the arguments of `laconic serve`, the environment and a file. `--help` prints and exits.

    Raises:
        ConfigError: an unknown flag or key, or an invalid value.
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


class _JoinLines(argparse.Action):
    """Joins repeated values by line ends. pydantic-settings would join them by commas, which headers may contain."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        before: str | None = getattr(namespace, self.dest, None)
        setattr(namespace, self.dest, values if before is None else f"{before}\n{values}")


def _add_argument(parser: _Parser, *names: str, **options: Any) -> argparse.Action:
    """Show `URL` instead of pydantic-settings' `list[str]`, and no default if the description states it."""
    if "metavar" in options:
        options["metavar"] = "URL" if names[-1] in _URL_FLAGS else _METAVARS.get(options["metavar"], options["metavar"])
        if names[-1] in _NAME_FLAGS:
            options["metavar"] = "NAME"
        if names[-1] in _TEXT_FLAGS:
            options |= {"metavar": "TEXT", "action": _JoinLines}
    if names[-1] == "--wait-for-engines":
        options |= {"nargs": "?", "const": str(WAIT_SECONDS), "metavar": "SECONDS"}
    options["help"] = re.sub(r" \(default(: None| factory:.*)\)$", "", options.get("help", ""))
    return parser.add_argument(*names, **options)
