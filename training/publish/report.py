"""What does a published family report about itself? Its plots, its model card, and the hashes of both.

`write` reads only the family's directory, so it can be repeated at any time: the same directory gives the same bytes.
"""

from __future__ import annotations

import json
from pathlib import Path

from models import family
from models.family import Family, FamilyError
from models.files import hash_files, sha256, write_text
from training.publish import card, plots, provenance

GATE = Path("report") / "gate.json"


def write(family_dir: Path) -> None:
    """Write the plots and the card of the family in `family_dir`, and update the report's hashes in its manifest.

    `report/training.png` is left as it is where the training's curves were not recorded.

    Raises:
        FamilyError: there is no usable family, or a file other than the report's differs from its hash.
        StageError: the record of its training is missing.
    """
    made_by = provenance.load(family_dir)
    published = _without_report_hashes(family_dir)
    plots.frontier(published.checkpoints, family_dir / "report" / "frontier.png")
    plots.by_difficulty(published.checkpoints, family_dir / "report" / "tokens-by-difficulty.png")
    if made_by.curves is not None:
        plots.training(made_by.curves, family_dir / "report" / "training.png")
    files = {**published.files, **hash_files(family_dir, "report")}
    family.save(published.model_copy(update={"files": files}), family_dir)
    gate_path = family_dir / GATE
    gate = json.loads(gate_path.read_text()) if gate_path.exists() else None
    profile = json.loads((family_dir / published.profile).read_text())
    write_text(family_dir / "README.md", card.write(published, made_by, gate=gate, profile=profile))


def _without_report_hashes(family_dir: Path) -> Family:
    """The family without the report's hashes, which are about to change; every other file is verified."""
    loaded = family.load(family_dir, verify=False)
    files = {path: digest for path, digest in loaded.files.items() if Path(path).parts[0] != "report"}
    published = loaded.model_copy(update={"files": files})
    for path, digest in published.all_files().items():
        if sha256(family_dir / path) != digest:
            raise FamilyError(f"{family_dir / family.MANIFEST}: {path} differs from its SHA-256 in the manifest")
    return published
