"""Which prices did the operator set? The prices file: YAML with a price for each checkpoint, and limits of teams.

    currency: USD
    default: {per_million: {prompt: 0.15, cached: 0.03, answer: 0.60}}
    checkpoints:
      base: {gpu_hour: 2.49, tokens_per_second: 1850}
    teams:
      research: {per_day: 50, per_month: 900}

`per_million` are prices of a million tokens. If `cached` is left out, it is the prompt's price; `reasoning` is then the
answer's. With `gpu_hour`, the hour of an engine is divided among the tokens that it generates when it is busy,
reasoning and answer alike. Prompts cost nothing of their own, because reading them is in the measured throughput.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Self, cast

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from gateway.access.cost import BILLIONTHS, TRILLIONTHS, Price
from models.family import Family
from models.field import first_error, one_line
from models.files import MIB, read_bounded

MAX_BYTES = MIB
TEAM = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
MOST = 9_000_000
"""Most of a limit in currency units."""
DECIMALS = 6
"""Of a price and a limit."""


class PricesError(ValueError):
    """The prices file cannot be used. The message is one line that names file, checkpoint and field."""


def _decimal(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise ValueError("must be a number")
    return Decimal(repr(value)) if isinstance(value, float) else value  # 0.1 as it is written


_Number = BeforeValidator(_decimal)
_PerMillion = Annotated[Decimal, _Number, Field(ge=0, le=1_000_000, decimal_places=DECIMALS, allow_inf_nan=False)]
_Amount = Annotated[Decimal, _Number, Field(gt=0, le=MOST, decimal_places=DECIMALS, allow_inf_nan=False)]
_Rate = Annotated[Decimal, _Number, Field(gt=0, le=1_000_000_000, allow_inf_nan=False)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Tokens(_Model):
    prompt: _PerMillion
    cached: _PerMillion | None = None
    reasoning: _PerMillion | None = None
    answer: _PerMillion


class _Priced(_Model):
    """One checkpoint's entry: prices of tokens, or of an engine's time."""

    per_million: _Tokens | None = None
    gpu_hour: _Rate | None = None
    tokens_per_second: _Rate | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.per_million is None) == (self.gpu_hour is None):
            raise ValueError("needs either per_million, or gpu_hour with tokens_per_second")
        if (self.gpu_hour is None) != (self.tokens_per_second is None):
            raise ValueError("gpu_hour and tokens_per_second belong together")
        return self

    def price(self) -> Price:
        if (tokens := self.per_million) is not None:
            cached = tokens.prompt if tokens.cached is None else tokens.cached
            reasoning = tokens.answer if tokens.reasoning is None else tokens.reasoning
            return Price(*(int(one * TRILLIONTHS / 10**6) for one in (tokens.prompt, cached, reasoning, tokens.answer)))
        assert self.gpu_hour is not None
        assert self.tokens_per_second is not None
        generated = round(self.gpu_hour * TRILLIONTHS / 3600 / self.tokens_per_second)
        return Price(0, 0, generated, generated)


class _Limits(_Model):
    per_day: _Amount | None = None
    per_month: _Amount | None = None

    @model_validator(mode="after")
    def _any(self) -> Self:
        if self.per_day is None and self.per_month is None:
            raise ValueError("needs per_day or per_month")
        return self


class _File(_Model):
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    default: _Priced | None = None
    checkpoints: dict[str, _Priced] = Field(default_factory=dict)
    judge: _Priced | None = None
    teams: dict[Annotated[str, Field(pattern=TEAM)], _Limits] = Field(default_factory=dict)


@dataclass(frozen=True)
class MoneyLimits:
    """What may be spent in a day and in a month (UTC), in billionths of the currency unit; None for no limit."""

    per_day: int | None = None
    per_month: int | None = None

    @property
    def least(self) -> int | None:
        """The most that one request may cost."""
        return min((limit for limit in (self.per_day, self.per_month) if limit is not None), default=None)

    def __bool__(self) -> bool:
        return self.least is not None


def limits_of(per_day: Decimal | None, per_month: Decimal | None) -> MoneyLimits:
    """Limits in currency units as those that are counted."""
    return MoneyLimits(*(None if one is None else int(one * BILLIONTHS) for one in (per_day, per_month)))


@dataclass(frozen=True)
class PriceList:
    """What the file says, with a price for every checkpoint of the family."""

    currency: str
    """ISO 4217. It is a label: nothing is converted."""
    checkpoints: Mapping[str, Price]
    default: Price | None = None
    """Of checkpoints that are only in the ledger, because they have left the family."""
    judge: Price | None = None
    """Of the model that compares answers (`--judge`)."""
    teams: Mapping[str, MoneyLimits] = field(default_factory=dict[str, MoneyLimits])

    def of(self, checkpoint: str) -> Price | None:
        """A checkpoint's price; None if there is none."""
        return self.checkpoints.get(checkpoint, self.default)


@dataclass
class Prices:
    """The prices of now, which a reload replaces."""

    current: PriceList | None


def load(path: Path | None, family: Family) -> PriceList | None:
    """Read the prices file; None without one.

    Raises:
        PricesError: it cannot be read, a field is wrong, a checkpoint does not exist or has no price.
    """
    if path is None:
        return None
    try:
        content = read_bounded(path, MAX_BYTES).decode()
        found: object = yaml.load(content, _Loader)  # noqa: S506  it is a safe loader
        file = _File.model_validate(found)
    except OSError as error:
        raise PricesError(f"prices: cannot read {path} ({error.strerror})") from None
    except ValidationError as error:
        where, what = first_error(error)
        raise PricesError(f"prices: {path}: {where or 'the file'}: {what}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise PricesError(f"prices: {path} is not YAML that can be used ({one_line(str(error))})") from None
    names = [checkpoint.name for checkpoint in family.checkpoints]
    if unknown := sorted(set(file.checkpoints) - set(names)):
        known = ", ".join(names)
        raise PricesError(f"prices: {path}: checkpoints.{one_line(unknown[0])}: it is not one of {known}")
    default = None if file.default is None else file.default.price()
    priced = {name: one.price() for name, one in file.checkpoints.items()}
    if default is not None:
        priced = {name: priced.get(name, default) for name in names}
    if missing := [name for name in names if name not in priced]:
        raise PricesError(f"prices: {path}: checkpoints.{missing[0]}: it has no price, and there is no default")
    teams = {name: limits_of(one.per_day, one.per_month) for name, one in file.teams.items()}
    return PriceList(file.currency, priced, default, None if file.judge is None else file.judge.price(), teams)


class _Loader(yaml.SafeLoader):
    """Safe YAML without aliases, which could grow without bound, and without keys that are there twice."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):  # pyright: ignore[reportUnknownMemberType]
            raise ValueError("it has an alias")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = cast("dict[Any, Any]", super().construct_mapping(node, deep))
        if len(mapping) < len(node.value):
            names = [str(key.value) for key, _ in node.value]
            twice = next((name for name in names if names.count(name) > 1), "<<")
            raise ValueError(f"{twice} is there twice")
        return mapping
