"""What is a family? The manifest `family.json`: its schema, and how it is loaded, verified and saved.

A family is one reasoning model at several efficiency levels. Either training made them: a base and the checkpoints
trained from it, each at its alpha (arXiv 2502.04463). Or they are served already: models of any engine, each with what
is put into its requests (`models.overrides`). The manifest has the figures measured on each. It is untrusted input to
the gateway, so pydantic parses it. A `Family` in memory has been validated.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self, cast, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.field import first_error, one_line
from models.files import MIB, read_json, sha256, write_json
from models.overrides import Cap, Overrides

SCHEMA_VERSION = 2
READABLE = (1, 2)
"""Version 1 had no checkpoints of kind `served`."""
MANIFEST = "family.json"
MAX_JSON_BYTES = 64 * MIB
"""Largest manifest, profile or adapter configuration."""
MAX_TOKENIZER_BYTES = 256 * MIB

QuantileName = Literal["p05", "p10", "p25", "p50", "p75", "p90", "p95", "p99"]
Quantiles = dict[QuantileName, float]


class FamilyError(ValueError):
    """The family cannot be used. The message is one line that names the file or field and says what is wrong."""


def _inside(path: str) -> str:
    parts = PurePosixPath(path)
    if not path.isprintable() or not path or parts.is_absolute() or ".." in parts.parts or "\\" in path:
        raise ValueError(f"{path!r} must be a relative path inside the family's directory")
    return path


RelativePath = Annotated[str, AfterValidator(_inside)]
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]*$"
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=64)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Files = dict[RelativePath, Sha256]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Estimate(_Frozen):
    """A measured mean with its 95 % interval. The manifest has bootstrap intervals over prompts."""

    mean: float
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.mean <= self.high:
            raise ValueError(f"an interval needs low <= mean <= high, got {self.low}, {self.mean}, {self.high}")
        return self


class Slice(_Frozen):
    """Figures over one set of prompts. Accuracy is in [0, 1]; reasoning tokens are as the engine counts them."""

    prompts: int = Field(gt=0)
    accuracy: Estimate
    reasoning_tokens: Estimate
    quantiles: Quantiles
    """Quantiles of the reasoning tokens of single samples."""

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        if self.accuracy.low < 0 or self.accuracy.high > 1:
            raise ValueError(f"accuracy must lie in [0, 1], got {self.accuracy.low} to {self.accuracy.high}")
        if missing := [name for name in get_args(QuantileName) if name not in self.quantiles]:
            raise ValueError(f"quantiles: {missing[0]} is missing")
        values = [self.quantiles[name] for name in get_args(QuantileName)]
        if values[0] < 0 or values != sorted(values):
            raise ValueError("quantiles must be non-negative and must not fall from p05 to p99")
        return self


class Measurements(_Frozen):
    """One checkpoint's accuracy and tokens, overall and by difficulty, and the command that measures them again."""

    overall: Slice
    by_difficulty: dict[str, Slice]
    samples_per_prompt: int = Field(gt=0)
    temperature: float | None = Field(ge=0)
    """None if it was left to the engine."""
    seed: int
    command: str


class Checkpoint(_Frozen):
    """One member of the family."""

    name: Name
    alpha: float | None = Field(default=None, ge=0, lt=1)
    """The efficiency level it was trained at; None for the base and for what training did not make."""
    kind: Literal["base", "lora", "full", "served"]
    """How its weights came about; `served`: elsewhere, and they are not part of the family."""
    path: RelativePath | None = None
    """Where its files are; None for `served`."""
    files: Files = Field(default_factory=dict)
    model: str | None = Field(default=None, min_length=1, max_length=256)
    """The engines' name for it; None for the family's name, a slash and its own."""
    overrides: Overrides = Overrides()
    """What is put into its requests."""
    budget: int | None = Field(default=None, ge=1, lt=2**31)
    """The most reasoning tokens it ever gets; None for no cap."""
    cap: Cap = "thinking_token_budget"
    """How its engines take a cap."""
    answer_tokens: int | None = Field(default=None, ge=0, lt=2**31)
    """Tokens that 95 of 100 of its answers need behind the thinking; None if that was not measured."""
    frontier: Measurements

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind == "served":
            if self.model is None:
                raise ValueError("model: a served checkpoint needs the name that its engine has for it")
            if self.path is not None or self.files:
                raise ValueError("files: a served checkpoint has none")
            return self
        if self.path is None or not self.files:
            raise ValueError("files: a trained checkpoint needs a path and its files")
        for file in self.files:
            if not PurePosixPath(file).is_relative_to(self.path):
                raise ValueError(f"files: {file} is not under the path {self.path}")
        return self

    def place(self, directory: Path) -> Path:
        """Where a trained checkpoint's files are, given the family's directory."""
        assert self.path is not None, f"{self.name} has no files"
        return directory / self.path


class Reasoning(_Frozen):
    """The markers around the model's thinking and before its answer."""

    start: str = "<think>"
    end: str = "</think>"
    answer_prefix: str = "The answer is "


class Family(_Frozen):
    """A validated manifest. Savings are measured against the checkpoint `reference`; it also serves when in doubt."""

    schema_version: Literal[1, 2] = SCHEMA_VERSION
    name: Name
    description: str
    base: Name | None = None
    """What the others were trained from; None if all are served."""
    reference: Name
    reasoning: Reasoning | None = Reasoning()
    """None if nothing marks the thinking: every generated token then counts as reasoning."""
    context_tokens: int = Field(gt=0, lt=2**31)
    tokenizer: RelativePath | None = None
    """Path to a `tokenizer.json`, or to a tiktoken rank file; None if it is not known."""
    tokenizer_pattern: str | None = None
    """The regular expression that splits text before a rank file's merges; the file itself does not contain it."""
    profile: RelativePath
    """Path to the difficulty profile (`models.profile`)."""
    files: Files = Field(default_factory=dict)
    """SHA-256 of the files that belong to no single checkpoint, such as the profile."""
    checkpoints: tuple[Checkpoint, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [c.name for c in self.checkpoints]
        if duplicates := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"checkpoints: duplicate name {duplicates[0]!r}")
        for field in ("base", "reference"):
            if (name := getattr(self, field)) is not None and name not in names:
                raise ValueError(f"{field}: no checkpoint is called {name!r}")
        trained = [c.name for c in self.checkpoints if c.kind != "served"]
        if (self.base is None) != (not trained):
            raise ValueError("base: trained checkpoints need one" if trained else "base: nothing was trained from it")
        if self.base is not None and self.checkpoint(self.base).kind != "base":
            raise ValueError(f"base: checkpoint {self.base!r} must be of kind 'base'")
        if self.reasoning is None and (capped := [c.name for c in self.checkpoints if c.cap != "none"]):
            raise ValueError(f"reasoning: {capped[0]} has a cap, and nothing marks the end of its thinking")
        for field in ("tokenizer", "profile"):
            if (path := getattr(self, field)) is not None and path not in self.all_files():
                raise ValueError(f"{field}: {path} has no SHA-256 in the manifest")
        return self

    def checkpoint(self, name: str) -> Checkpoint:
        """The checkpoint called `name`; raises KeyError if there is none."""
        for checkpoint in self.checkpoints:
            if checkpoint.name == name:
                return checkpoint
        raise KeyError(name)

    @property
    def base_checkpoint(self) -> Checkpoint:
        """What the others were trained from.

        Raises:
            FamilyError: nothing was trained.
        """
        if self.base is None:
            raise FamilyError(f"{self.name} has no base: its models are served elsewhere")
        return self.checkpoint(self.base)

    def served_name(self, checkpoint: str) -> str:
        """The model name that callers use for a checkpoint, e.g. `abacus/alpha-0.2`."""
        return f"{self.name}/{checkpoint}"

    def engine_name(self, checkpoint: str) -> str:
        """The model name that engines have for a checkpoint: its own, or the one that callers use."""
        return self.checkpoint(checkpoint).model or self.served_name(checkpoint)

    def by_engine_name(self) -> dict[str, frozenset[str]]:
        """The checkpoints by the model name that engines have for them; several may share one model."""
        names: dict[str, set[str]] = {}
        for checkpoint in self.checkpoints:
            names.setdefault(self.engine_name(checkpoint.name), set()).add(checkpoint.name)
        return {model: frozenset(checkpoints) for model, checkpoints in names.items()}

    def capped(self, names: Collection[str]) -> list[Checkpoint]:
        """Those of the named checkpoints whose thinking can be ended: by their engines, or by the gateway at a mark."""
        return [checkpoint for checkpoint in self.checkpoints if checkpoint.name in names and checkpoint.cap != "none"]

    def ladder(self) -> list[str]:
        """The checkpoints from the one that thinks longest to the one that thinks least: by alpha, or as measured."""
        if self.base is not None:
            return [c.name for c in sorted(self.checkpoints, key=lambda c: -1.0 if c.alpha is None else c.alpha)]
        return [c.name for c in sorted(self.checkpoints, key=lambda c: -c.frontier.overall.reasoning_tokens.mean)]

    def all_files(self) -> Files:
        """Every file of the family, with its SHA-256."""
        files = dict(self.files)
        for checkpoint in self.checkpoints:
            files.update(checkpoint.files)
        return files


def load(directory: Path, *, verify: bool = True) -> Family:
    """Read and validate `directory/family.json`, and check the files it needs at hand: the profile and the tokenizer.

    Args:
        verify: whether to check the weights, too. Whoever loads them, or has them loaded, must do so.

    Raises:
        FamilyError: the manifest is missing, its schema version is unknown, a field is invalid, a path leaves the
            directory, a file is missing, no regular file, too large, or differs from its hash; or, of the weights, a
            checkpoint's directory has a file that the manifest does not list. The last matters because engines load any
            weights they find there.
    """
    manifest = directory / MANIFEST
    try:
        raw = read_json(manifest, MAX_JSON_BYTES)
    except OSError as error:
        raise FamilyError(f"{manifest}: cannot be read ({error.strerror}); is this a family's directory?") from None
    except ValueError as error:
        raise FamilyError(f"{manifest}: not JSON ({one_line(str(error))})") from None
    version = cast("dict[str, object]", raw).get("schema_version") if isinstance(raw, dict) else None
    if version not in READABLE:
        readable = " and ".join(map(str, READABLE))
        raise FamilyError(
            f"{manifest}: schema_version is {one_line(repr(version))}, this version of Laconic reads {readable}"
        )
    try:
        family = Family.model_validate(raw)
    except ValidationError as error:
        field, reason = first_error(error)
        raise FamilyError(f"{manifest}: {field or 'manifest'}: {reason}") from None
    _check_files(family, directory, weights=verify)
    return family


def _check_files(family: Family, directory: Path, *, weights: bool) -> None:
    manifest = directory / MANIFEST
    path = ""
    try:
        root = directory.resolve()
        for path, digest in family.all_files().items():
            if weights or path in (family.tokenizer, family.profile):
                _check_file(family, directory, root, path)
                if sha256(directory / path) != digest:
                    raise FamilyError(f"{manifest}: {path} differs from its SHA-256 in the manifest")
        for checkpoint in family.checkpoints if weights else ():
            if checkpoint.path is not None:
                path = checkpoint.path
                _check_listed(directory / checkpoint.path, checkpoint.files, directory)
    except OSError as error:
        raise FamilyError(f"{manifest}: {path} cannot be read ({error.strerror})") from None
    except RuntimeError:
        raise FamilyError(f"{manifest}: {path} is a loop of symbolic links") from None


def _check_file(family: Family, directory: Path, root: Path, path: str) -> None:
    """Raise FamilyError unless a listed file exists inside the directory, is a regular file and not too large."""
    manifest, file = directory / MANIFEST, directory / path
    if not file.resolve().is_relative_to(root):
        raise FamilyError(f"{manifest}: {path} leads outside the family's directory")
    if not file.exists():
        hint = family.base and path in family.base_checkpoint.files
        hint = f"; if it is a public model's, `laconic-train rebuild {directory}` makes it" if hint else ""
        raise FamilyError(f"{manifest}: {path} is missing{hint}")
    if not file.is_file():
        raise FamilyError(f"{manifest}: {path} is not a regular file")
    largest = {family.tokenizer: MAX_TOKENIZER_BYTES, family.profile: MAX_JSON_BYTES}.get(path)
    if largest is not None and file.stat().st_size > largest:
        raise FamilyError(f"{manifest}: {path} is larger than {largest // MIB} MiB")


def _check_listed(place: Path, files: Files, directory: Path) -> None:
    """Raise FamilyError if a checkpoint's directory has anything but directories and the files it lists."""
    others = (
        file.relative_to(directory).as_posix() for file in place.rglob("*") if file.is_symlink() or not file.is_dir()
    )
    if unlisted := sorted(set(others) - set(files)):
        raise FamilyError(f"{directory / MANIFEST}: {one_line(unlisted[0])} is not listed in the manifest")


def save(family: Family, directory: Path) -> None:
    """Write the manifest atomically."""
    write_json(directory / MANIFEST, family.model_dump(mode="json"))
