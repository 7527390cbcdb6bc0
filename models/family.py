"""What is a family? The manifest `family.json`: its schema, and how it is loaded, verified and saved.

A family is one reasoning model at several efficiency levels alpha (arXiv 2502.04463): a base, the checkpoints trained
from it, and the figures measured on each. The manifest is untrusted input to the gateway, so pydantic parses it. A
`Family` in memory has been validated.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self, cast, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.field import first_error, one_line
from models.files import MIB, read_json, sha256, write_json

SCHEMA_VERSION = 1
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
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64)]
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
    temperature: float = Field(ge=0)
    seed: int
    command: str


class Checkpoint(_Frozen):
    """One member of the family. `alpha` is the efficiency level it was trained at; None for the base."""

    name: Name
    alpha: float | None = Field(default=None, ge=0, lt=1)
    kind: Literal["base", "lora", "full"]
    path: RelativePath
    files: Files = Field(min_length=1)
    frontier: Measurements

    @model_validator(mode="after")
    def _files_under_path(self) -> Self:
        for file in self.files:
            if not PurePosixPath(file).is_relative_to(self.path):
                raise ValueError(f"files: {file} is not under the path {self.path}")
        return self


class Reasoning(_Frozen):
    """The markers around the model's thinking and before its answer."""

    start: str = "<think>"
    end: str = "</think>"
    answer_prefix: str = "The answer is "


class Family(_Frozen):
    """A validated manifest. Savings are measured against the checkpoint `reference`; it also serves when in doubt."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: Name
    description: str
    base: Name
    reference: Name
    reasoning: Reasoning = Reasoning()
    context_tokens: int = Field(gt=0, lt=2**31)
    tokenizer: RelativePath
    """Path to a `tokenizer.json`, or to a tiktoken rank file."""
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
            if getattr(self, field) not in names:
                raise ValueError(f"{field}: no checkpoint is called {getattr(self, field)!r}")
        if self.checkpoint(self.base).kind != "base":
            raise ValueError(f"base: checkpoint {self.base!r} must be of kind 'base'")
        for field in ("tokenizer", "profile"):
            if getattr(self, field) not in self.all_files():
                raise ValueError(f"{field}: {getattr(self, field)} has no SHA-256 in the manifest")
        return self

    def checkpoint(self, name: str) -> Checkpoint:
        """The checkpoint called `name`; raises KeyError if there is none."""
        for checkpoint in self.checkpoints:
            if checkpoint.name == name:
                return checkpoint
        raise KeyError(name)

    def served_name(self, checkpoint: str) -> str:
        """The model name that engines and callers use for a checkpoint, e.g. `abacus/alpha-0.2`."""
        return f"{self.name}/{checkpoint}"

    def all_files(self) -> Files:
        """Every file of the family, with its SHA-256."""
        files = dict(self.files)
        for checkpoint in self.checkpoints:
            files.update(checkpoint.files)
        return files


def load(directory: Path, *, verify: bool = True) -> Family:
    """Read and validate `directory/family.json`; with `verify`, also hash every file it lists.

    Raises:
        FamilyError: the manifest is missing, its schema version is unknown, a field is invalid, a path leaves the
            directory, a file is missing, no regular file, too large, or differs from its hash, or a checkpoint's
            directory has a file that the manifest does not list. The last matters because engines load any weights
            they find there.
    """
    manifest = directory / MANIFEST
    try:
        raw = read_json(manifest, MAX_JSON_BYTES)
    except OSError as error:
        raise FamilyError(f"{manifest}: cannot be read ({error.strerror}); is this a family's directory?") from None
    except ValueError as error:
        raise FamilyError(f"{manifest}: not JSON ({one_line(str(error))})") from None
    version = cast("dict[str, object]", raw).get("schema_version") if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION:
        raise FamilyError(
            f"{manifest}: schema_version is {one_line(repr(version))}, this version of Laconic reads {SCHEMA_VERSION}"
        )
    try:
        family = Family.model_validate(raw)
    except ValidationError as error:
        field, reason = first_error(error)
        raise FamilyError(f"{manifest}: {field or 'manifest'}: {reason}") from None
    _check_files(family, directory, verify)
    return family


def _check_files(family: Family, directory: Path, verify: bool) -> None:
    manifest = directory / MANIFEST
    path = ""
    try:
        root = directory.resolve()
        for path, digest in family.all_files().items():
            _check_file(family, directory, root, path)
            if verify and sha256(directory / path) != digest:
                raise FamilyError(f"{manifest}: {path} differs from its SHA-256 in the manifest")
        for checkpoint in family.checkpoints:
            path = checkpoint.path
            _check_listed(checkpoint, directory)
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
        raise FamilyError(f"{manifest}: {path} is missing")
    if not file.is_file():
        raise FamilyError(f"{manifest}: {path} is not a regular file")
    largest = {family.tokenizer: MAX_TOKENIZER_BYTES, family.profile: MAX_JSON_BYTES}.get(path)
    if largest is not None and file.stat().st_size > largest:
        raise FamilyError(f"{manifest}: {path} is larger than {largest // MIB} MiB")


def _check_listed(checkpoint: Checkpoint, directory: Path) -> None:
    """Raise FamilyError if a checkpoint's directory has anything but directories and the files it lists."""
    manifest = directory / MANIFEST
    others = (
        file.relative_to(directory).as_posix()
        for file in (directory / checkpoint.path).rglob("*")
        if file.is_symlink() or not file.is_dir()
    )
    if unlisted := sorted(set(others) - set(checkpoint.files)):
        raise FamilyError(f"{manifest}: {one_line(unlisted[0])} is not listed in the manifest")


def save(family: Family, directory: Path) -> None:
    """Write the manifest atomically."""
    write_json(directory / MANIFEST, family.model_dump(mode="json"))
