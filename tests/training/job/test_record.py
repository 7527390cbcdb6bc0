import pytest

from training.errors import StageError
from training.job.record import fingerprint, is_up_to_date, write_json


def test_an_artefact_stands_where_it_was_made_from_the_same(tmp_path):
    artefact = tmp_path / "adapter"
    assert not is_up_to_date(artefact, {"alpha": 0.1, "lora": (1, 2)})
    assert not is_up_to_date(artefact, {"alpha": 0.1, "lora": (1, 2)}), "begun, and not there yet"
    artefact.write_text("weights")
    assert is_up_to_date(artefact, {"alpha": 0.1, "lora": (1, 2)})


def test_what_was_made_from_something_else_is_refused_by_name_until_it_is_removed(tmp_path):
    artefact = tmp_path / "rows.jsonl"
    is_up_to_date(artefact, {"samples": 2, "seed": 0})
    artefact.write_text("rows")
    with pytest.raises(StageError, match=r"rows.jsonl was made with another samples \(2, now 4\): remove .*rows.jsonl"):
        is_up_to_date(artefact, {"samples": 4, "seed": 0})
    with pytest.raises(StageError, match=r"another temperature \(null, now 1.0\)"):
        is_up_to_date(artefact, {"samples": 2, "seed": 0, "temperature": 1.0})
    artefact.unlink()
    assert not is_up_to_date(artefact, {"samples": 4, "seed": 0})
    artefact.write_text("rows")
    assert is_up_to_date(artefact, {"samples": 4, "seed": 0})


def test_unfinished_work_is_not_gone_on_with_from_something_else(tmp_path):
    directory = tmp_path / "alpha-0"
    is_up_to_date(directory / "adapter", {"lr": 1}, remove=directory)
    with pytest.raises(StageError, match=r"adapter was made with another lr \(1, now 2\): remove .*alpha-0 to"):
        is_up_to_date(directory / "adapter", {"lr": 2}, remove=directory)


def test_an_artefact_of_unknown_making_is_refused(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(StageError, match=r"model has no record .* remove .*base"):
        is_up_to_date(tmp_path / "model", {}, remove=tmp_path / "base")


def test_a_fingerprint_tells_contents_and_names_apart(tmp_path):
    seen = set()
    for name, text in (("a", "1"), ("a", "2"), ("b", "2")):
        directory = tmp_path / f"{name}{text}" / "model"
        directory.mkdir(parents=True)
        (directory / name).write_text(text)
        seen.add(fingerprint(directory))
        assert fingerprint(directory) == fingerprint(directory)
    assert len(seen) == 3
    with pytest.raises(StageError, match="is missing"):
        fingerprint(tmp_path / "none")


def test_json_is_written_whole(tmp_path):
    write_json(tmp_path / "new" / "gate.json", {"a": 1})
    assert (tmp_path / "new" / "gate.json").read_text() == '{\n "a": 1\n}\n'
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["gate.json"]
