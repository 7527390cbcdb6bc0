"""What is in a profile's file, and does it fit together? `models.profile` says what it means."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from models.encoder import StoredEncoder
from models.features import FEATURES
from models.floor import Floor
from models.forest import Forest
from models.prediction import LEVELS, Escalation
from models.reader import StoredReader

SCHEMA_VERSION = 10
READABLE = (7, 8, 9, 10)
"""Version 7 had no reader: easiness was the forest's value. Version 8 had no encoder. Version 9 had no answers."""
MAX_SHIFTS = 64
"""Most values of u, which is the logarithm of a budget."""
MAX_NODES = 2**22
"""Most nodes of a forest at all its positions, which are in memory together."""


class ProfileError(ValueError):
    """The profile cannot be used. The message is one line."""


class StoredEscalation(Escalation):
    scale: tuple[float, float]
    """a and b of P(correct)."""
    unsure: tuple[float, float, float]
    """m, k and l of P(unsure)."""
    measured: dict[str, float]
    """`tokens` and `accuracy` on the fitting prompts, for people to read."""


class StoredProfile(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    schema_version: int
    vocabulary: list[str]
    lower: list[float]
    upper: list[float]
    difficulties: list[float]
    correct: Forest
    reader: StoredReader | None = None
    """How easy a prompt looks; None for what the forest `correct` says."""
    encoder: StoredEncoder | None = None
    """Which encoder the reader needs; None if it needs none."""
    scales: dict[str, tuple[float, float]]
    """a and b by checkpoint."""
    tokens: Forest
    spread: Forest
    answers: Forest | None = None
    """The mean of log(1 + answer tokens); None if no answer tokens were measured."""
    answer_scales: dict[str, float] = {}
    """By checkpoint in the order of `residuals`: E[answer tokens | x] = scale * exp(answers(x)) - 1, at least 0."""
    escalations: dict[str, StoredEscalation]
    """By name."""
    budget_forced: Forest
    """s, a function of the features and u."""
    budget_forced_shifts: dict[str, list[float]]
    """d at u = 0, 1, ... by checkpoint."""
    residuals: dict[str, list[float]]
    """Quantiles of z at `LEVELS`, by checkpoint in the order of their positions."""
    report: dict[str, dict[str, float]]
    reliability: dict[str, list[tuple[float, float, float]]] = {}
    """By checkpoint, in bins of P(correct): its mean, the share that was correct, and the prompts; for people."""
    floors: list[Floor] = []
    """What keeps which share of the reference's quality, the lowest share first; empty if that was not tested."""


def check(stored: StoredProfile) -> None:
    """Raise ProfileError unless the stored arrays fit each other."""
    for bound, bounds in (("lower", stored.lower), ("upper", stored.upper)):
        if len(bounds) != len(FEATURES):
            raise ProfileError(f"{bound} has {len(bounds)} values, not {len(FEATURES)}")
    for name, values in stored.residuals.items():
        if len(values) != len(LEVELS):
            raise ProfileError(f"residuals.{name} has {len(values)} values, not {len(LEVELS)}")
    _check_names(stored)
    positions = max(len(stored.residuals), *map(len, stored.budget_forced_shifts.values()))
    answers = () if stored.answers is None else (stored.answers,)
    forests = (stored.correct, stored.tokens, stored.spread, stored.budget_forced, *answers)
    if positions > MAX_SHIFTS or positions * sum(len(forest.value) for forest in forests) > MAX_NODES:
        raise ProfileError("the forests are too large to be evaluated for each request")


def _check_names(stored: StoredProfile) -> None:
    """Raise ProfileError unless every part is about the same checkpoints."""
    if not stored.residuals:
        raise ProfileError("residuals is empty")
    if list(stored.scales) != list(stored.residuals):
        raise ProfileError(f"scales has {', '.join(stored.scales)}, residuals has {', '.join(stored.residuals)}")
    if stored.answers is not None and list(stored.answer_scales) != list(stored.residuals):
        has = ", ".join(stored.answer_scales) or "nothing"
        raise ProfileError(f"answer_scales has {has}, residuals has {', '.join(stored.residuals)}")
    if list(stored.budget_forced_shifts) != list(stored.residuals):
        raise ProfileError(
            f"budget_forced_shifts has {', '.join(stored.budget_forced_shifts)},"
            f" residuals has {', '.join(stored.residuals)}"
        )
    if len({len(shifts) for shifts in stored.budget_forced_shifts.values()} - {0}) != 1:
        raise ProfileError("budget_forced_shifts: every checkpoint needs the same number of values, at least one")
    for name, escalation in stored.escalations.items():
        if name in stored.residuals:
            raise ProfileError(f"escalations.{name}: a checkpoint has the same name")
        for field in ("first", "second"):
            if (checkpoint := getattr(escalation, field)) not in stored.residuals:
                raise ProfileError(f"escalations.{name}.{field}: {checkpoint} is not one of the checkpoints")
