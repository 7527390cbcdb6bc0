"""How was a published family made? The facts its card states that neither the manifest nor the profile holds.

`report/training.json` records them when the family is published, so the card and the plots can be written again after
the run directory is gone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from models.files import write_json
from training.config import Reward
from training.errors import StageError

FILE = Path("report") / "training.json"

Curves = dict[str, list[tuple[int, float]]]
"""Of one training: (step, value) by logged figure."""


@dataclass(frozen=True)
class Provenance:
    """The recipe's settings that the card names, and what the training logs recorded."""

    recipe: str
    """Path of the recipe, as a reader types it."""
    pretrained: str | None
    """The model that the checkpoints were made from; None for a base that the recipe trained from scratch."""
    parameters: int | None
    """Of a base that was trained from scratch."""
    reward: Reward
    dense: Mapping[str, Any] | None
    """Settings of the dense reward; None where there was none."""
    minutes: Mapping[str, int]
    """Training time by checkpoint, from the training logs."""
    curves: Mapping[str, Curves] | None
    """Rollout figures by checkpoint and step, for the plot; None where they were not recorded."""
    revision: str | None = None
    """The commit of a pretrained model on the Hugging Face Hub, if the recipe names it."""
    weights: Mapping[str, str] = field(default_factory=dict[str, str])
    """SHA-256 of the pretrained model's own weights, by file."""
    quantized: str | None = None
    """What the base's directory says of weights that were quantized once, in its file `QUANTIZED`."""
    deciding: Mapping[str, Any] | None = None
    """Settings of the fine-tuning of where another episode pays; None where there was none."""


def save(provenance: Provenance, family_dir: Path) -> None:
    """Write `report/training.json`."""
    write_json(family_dir / FILE, asdict(provenance))


def load(family_dir: Path) -> Provenance:
    """Read `report/training.json`.

    Raises:
        StageError: the file is missing or has other fields; the message names it.
    """
    path = family_dir / FILE
    try:
        return Provenance(**json.loads(path.read_text()))
    except OSError as error:
        raise StageError(f"{path}: cannot be read ({error.strerror}); publish the family again") from None
    except (TypeError, ValueError) as error:
        raise StageError(f"{path}: is not a record of a training ({error}); publish the family again") from None
