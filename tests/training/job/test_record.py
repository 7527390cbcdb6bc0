import shutil

import pytest

from training.errors import StageError
from training.job.record import fingerprint, is_up_to_date


def test_an_artefact_made_from_the_same_inputs_is_up_to_date(tmp_path):
    artefact = tmp_path / "adapter"
    assert not is_up_to_date(artefact, {"alpha": 0.1, "lora": (1, 2)})
    assert not is_up_to_date(artefact, {"alpha": 0.1, "lora": (1, 2)}), "recorded, but not made yet"
    artefact.write_text("weights")
    assert is_up_to_date(artefact, {"alpha": 0.1, "lora": (1, 2)})


def test_an_artefact_made_from_other_inputs_is_rejected_until_it_is_removed(tmp_path):
    artefact = tmp_path / "rows.jsonl"
    is_up_to_date(artefact, {"samples": 2, "seed": 0})
    artefact.write_text("rows")
    with pytest.raises(
        StageError, match=r"rows.jsonl: samples changed from 2 to 4 since it was made; remove .*rows.jsonl"
    ):
        is_up_to_date(artefact, {"samples": 4, "seed": 0})
    with pytest.raises(StageError, match=r"temperature changed from null to 1.0"):
        is_up_to_date(artefact, {"samples": 2, "seed": 0, "temperature": 1.0})
    artefact.unlink()
    assert not is_up_to_date(artefact, {"samples": 4, "seed": 0})
    artefact.write_text("rows")
    assert is_up_to_date(artefact, {"samples": 4, "seed": 0})


def test_unfinished_work_is_not_continued_from_other_inputs(tmp_path):
    directory = tmp_path / "alpha-0"
    directory.mkdir()
    is_up_to_date(directory / "adapter", {"lr": 1}, hint_remove=directory)
    with pytest.raises(StageError, match=r"adapter: lr changed from 1 to 2 since it was made; remove .*alpha-0 to"):
        is_up_to_date(directory / "adapter", {"lr": 2}, hint_remove=directory)


def test_removing_what_the_message_names_is_enough_to_make_it_again(tmp_path):
    artefact = tmp_path / "adapter"
    artefact.mkdir()
    (tmp_path / "adapter.made-from.json").write_text('{"lr": 1}')
    with pytest.raises(StageError, match=r"remove .*adapter to make it again"):
        is_up_to_date(artefact, {"lr": 2}, hint_remove=artefact)
    artefact.rmdir()
    assert not is_up_to_date(artefact, {"lr": 2}, hint_remove=artefact)


def test_an_artefact_without_a_record_is_rejected(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(StageError, match=r"model has no record .* remove .*base"):
        is_up_to_date(tmp_path / "model", {}, hint_remove=tmp_path / "base")


def test_a_fingerprint_depends_on_contents_and_names_but_not_on_the_place(tmp_path):
    fingerprints = set()
    for name, text in (("a", "1"), ("a", "2"), ("b", "2")):
        directory = tmp_path / f"{name}{text}" / "model"
        directory.mkdir(parents=True)
        (directory / name).write_text(text)
        fingerprints.add(fingerprint(directory))
        assert fingerprint(directory) == fingerprint(directory)
        copy = shutil.copytree(directory, tmp_path / "copies" / f"{name}{text}")
        assert fingerprint(copy) == fingerprint(directory)
    assert len(fingerprints) == 3
    with pytest.raises(StageError, match="is missing"):
        fingerprint(tmp_path / "none")
