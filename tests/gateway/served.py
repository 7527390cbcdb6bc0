"""A family of a model that engines serve already, for tests."""

from __future__ import annotations

from pathlib import Path

from models import family as families
from models.family import Checkpoint, Family
from models.files import hash_files
from tests.gateway.fakes import build_family

SERVED_MODEL = "Qwen/Qwen3-8B"


def build_served_family(directory: Path) -> Family:
    """The same family without weights: three levels of one model that engines serve under `SERVED_MODEL`."""
    family = build_family(directory)
    levels = tuple(
        Checkpoint(
            name=checkpoint.name,
            kind="served",
            model=SERVED_MODEL,
            cap="thinking_token_budget",
            frontier=checkpoint.frontier,
        )
        for checkpoint in family.checkpoints
    )
    files = family.files | hash_files(directory, "base/tokenizer.json")
    served = family.model_copy(update={"base": None, "checkpoints": levels, "files": files})
    families.save(served, directory)
    return families.load(directory)
