"""How does a family get its base back? From the public model that it was made of, and the adapter of its cold start.

A base may be gigabytes that anybody can fetch, so a family is passed on without them: `rm FAMILY/base/*.safetensors`.
What is made here is checked against the manifest, so it is the base that the family was measured with, or nothing.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from models import family
from models.files import sha256
from training.coldstart import merge
from training.errors import StageError
from training.job import checkpoints
from training.publish import provenance
from training.publish.assemble import COLD_START, weights_of
from training.publish.provenance import Provenance
from training.recipe_base import PretrainedBase


def rebuild(directory: Path, model: str | None, revision: str | None) -> list[str]:
    """Make the files of the base that are missing. Returns their names; none if nothing was missing.

    Args:
        directory: of a published family.
        model: the model that it was made of, a directory or a name on the Hugging Face Hub; None for the name that the
            family has for it.
        revision: the commit on the hub; None for the one that the family names, if it names the model, too.

    Raises:
        FamilyError: there is no family, or it has no base.
        StageError: the model is another one, or what was made of it is not the base. Names the file.
    """
    published = family.load(directory, verify=False)
    base = published.base_checkpoint
    missing = {file: digest for file, digest in base.files.items() if not (directory / file).exists()}
    if not missing:
        return []
    made = provenance.load(directory)
    if made.pretrained is None:
        raise StageError(f"{next(iter(missing))} is missing, and this base was trained from scratch: copy it")
    name, commit = (model, revision) if model else (made.pretrained, revision or made.revision)
    source = checkpoints.source_directory(PretrainedBase(model=name, revision=commit))
    _check_source(source, made)
    with TemporaryDirectory(dir=directory, prefix=".rebuilding-") as work:
        built = Path(work)
        if any(Path(file).parts[0] == COLD_START for file in published.files):
            merge.write_base(source, directory / COLD_START, built)
        else:
            shutil.copytree(source, built, dirs_exist_ok=True)
        for file, digest in missing.items():
            _check_built(built / Path(file).name, file, digest)
        for file in missing:
            (directory / file).parent.mkdir(parents=True, exist_ok=True)
            (built / Path(file).name).rename(directory / file)
    return list(missing)


def _check_source(source: Path, made: Provenance) -> None:
    """Raise unless a model has the weights that the family was made of."""
    found = weights_of(source)
    for file, digest in made.weights.items():
        if found.get(file) != digest:
            what = "has another SHA-256" if file in found else "is missing"
            at = f", revision {made.revision}" if made.revision else ""
            raise StageError(f"--base: {file} of {source} {what}; the family was made of {made.pretrained}{at}")


def _check_built(made: Path, file: str, digest: str) -> None:
    """Raise unless a file that was made is the one that the manifest lists."""
    if not made.exists():
        raise StageError(f"{file}: the model has no such file")
    if sha256(made) != digest:
        raise StageError(
            f"{file}: did not come out with the SHA-256 in the manifest; use the libraries' versions that the family"
            " was made with (requirements/all.txt of that version of Laconic)"
        )
