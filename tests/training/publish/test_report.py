import json
import shutil
from pathlib import Path

import pytest

from models import family as families
from models.family import FamilyError
from training.errors import StageError
from training.publish import provenance, report

SHIPPED = Path(families.__file__).parent / "abacus"


@pytest.fixture
def published(tmp_path):
    directory = tmp_path / "abacus"
    shutil.copytree(SHIPPED, directory)
    return directory


def contents(directory):
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_writing_the_report_of_the_shipped_family_changes_nothing(published):
    before = contents(published)
    report.write(published)
    assert contents(published) == before
    report.write(published)
    assert contents(published) == before


def test_a_lost_card_and_a_damaged_plot_are_written_again(published):
    before = contents(published)
    (published / "README.md").unlink()
    (published / "report" / "frontier.png").write_bytes(b"damaged")
    report.write(published)
    assert contents(published) == before


def test_the_manifest_gets_the_hashes_of_what_was_written(published):
    recorded = provenance.load(published)
    curves = {"base": {key: [(1, 0.5), (2, 0.75)] for key in ("accuracy", "reasoning_tokens", "episodes")}}
    provenance.save(provenance.Provenance(**{**vars(recorded), "curves": curves}), published)
    before = (published / "report" / "training.png").read_bytes()
    report.write(published)
    assert (published / "report" / "training.png").read_bytes() != before
    families.load(published, verify=True)


def test_a_profile_that_differs_from_its_hash_is_refused(published):
    profile = json.loads((published / "profile.json").read_text())
    profile["report"]["base"]["auc"] = 1.0
    (published / "profile.json").write_text(json.dumps(profile))
    with pytest.raises(FamilyError, match=r"profile\.json differs from its SHA-256"):
        report.write(published)


def test_a_family_without_its_record_of_training_is_refused_by_name(published):
    (published / "report" / "training.json").write_text("{}")
    with pytest.raises(StageError, match=r"training\.json: is not a record of a training"):
        report.write(published)
    (published / "report" / "training.json").unlink()
    with pytest.raises(StageError, match=r"training\.json: cannot be read"):
        report.write(published)
