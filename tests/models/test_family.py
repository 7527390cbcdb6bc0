from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models import family as families
from models.family import Family, FamilyError
from models.files import hash_files, sha256


def write_family(directory: Path) -> dict[str, Any]:
    """Write a family of two checkpoints; returns its manifest, for tests to tamper with."""
    for name in ("base", "alpha-0.2"):
        (directory / name).mkdir()
        (directory / name / "weights").write_bytes(name.encode())
    (directory / "base" / "tokenizer.json").write_text("{}")
    (directory / "profile.json").write_text("{}")
    estimate = {"mean": 0.75, "low": 0.5, "high": 1.0}
    quantiles = dict.fromkeys(("p05", "p10", "p25", "p50", "p75", "p90", "p95", "p99"), 1.0)
    measured = {"prompts": 9, "accuracy": estimate, "reasoning_tokens": estimate, "quantiles": quantiles}
    frontier = {
        "overall": measured, "by_difficulty": {"1": measured}, "samples_per_prompt": 4, "temperature": 1.0, "seed": 1,
        "command": "laconic-train evaluate",
    }  # fmt: skip
    checkpoints = [
        {
            "name": name, "alpha": alpha, "kind": kind, "path": name, "frontier": frontier,
            "files": hash_files(directory, name),
        }
        for name, alpha, kind in (("base", None, "base"), ("alpha-0.2", 0.2, "lora"))
    ]  # fmt: skip
    manifest = {
        "schema_version": 1, "name": "abacus", "description": "to test with", "base": "base", "reference": "base",
        "context_tokens": 64, "tokenizer": "base/tokenizer.json", "profile": "profile.json",
        "files": hash_files(directory, "profile.json"), "checkpoints": checkpoints,
    }  # fmt: skip
    write(directory, manifest)
    return manifest


def write(directory: Path, manifest: object) -> None:
    (directory / families.MANIFEST).write_text(json.dumps(manifest))


def rejection(directory: Path) -> str:
    with pytest.raises(FamilyError) as error:
        families.load(directory)
    message = str(error.value)
    assert "\n" not in message
    assert str(directory / families.MANIFEST) in message
    return message


def test_a_valid_family_loads(tmp_path: Path) -> None:
    write_family(tmp_path)
    family = families.load(tmp_path)
    assert [checkpoint.name for checkpoint in family.checkpoints] == ["base", "alpha-0.2"]
    assert family.checkpoint("alpha-0.2").alpha == 0.2
    assert family.served_name("alpha-0.2") == "abacus/alpha-0.2"
    with pytest.raises(KeyError):
        family.checkpoint("alpha-0.3")


def test_a_saved_family_loads_unchanged(tmp_path: Path) -> None:
    write_family(tmp_path)
    family = families.load(tmp_path)
    families.save(family, tmp_path)
    assert families.load(tmp_path) == family
    assert not list(tmp_path.glob("*.tmp"))


def test_a_changed_byte_in_any_file_is_detected(tmp_path: Path) -> None:
    write_family(tmp_path)
    for file in families.load(tmp_path).all_files():
        content = (tmp_path / file).read_bytes()
        (tmp_path / file).write_bytes(bytes([content[0] ^ 1]) + content[1:])
        assert f"{file} differs from its SHA-256" in rejection(tmp_path)
        if "weights" in file:
            families.load(tmp_path, verify=False)
        (tmp_path / file).write_bytes(content)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write_family(tmp_path)
    (tmp_path / "alpha-0.2" / "weights").unlink()
    assert "alpha-0.2/weights is missing" in rejection(tmp_path)


def test_a_file_that_the_manifest_does_not_list_is_rejected(tmp_path: Path) -> None:
    write_family(tmp_path)
    (tmp_path / "base" / "more.safetensors").write_bytes(b"weights that an engine would load")
    assert "base/more.safetensors is not listed" in rejection(tmp_path)


@pytest.mark.parametrize(("field", "path"), [("tokenizer", "base/weights.json"), ("profile", "other.json")])
def test_tokenizer_and_profile_need_a_hash(field: str, path: str, tmp_path: Path) -> None:
    manifest = write_family(tmp_path)
    (tmp_path / path).write_text("{}")
    write(tmp_path, manifest | {field: path})
    assert f"{field}: {path} has no SHA-256" in rejection(tmp_path)


@pytest.mark.parametrize("version", [0, 3, "1", None, [1]])
def test_unknown_schema_versions_are_rejected(version: object, tmp_path: Path) -> None:
    write(tmp_path, write_family(tmp_path) | {"schema_version": version})
    assert "schema_version" in rejection(tmp_path)


@pytest.mark.parametrize("escape", ["../outside", "/etc/passwd", "base/../../outside", "base\\..\\outside", "", ".."])
def test_a_path_that_leaves_the_directory_is_rejected(escape: str, tmp_path: Path) -> None:
    (tmp_path / "family").mkdir()
    (tmp_path / "outside").write_text("secret")
    manifest = write_family(tmp_path / "family")
    digest = sha256(tmp_path / "outside")
    for tampered in (
        manifest | {"profile": escape},
        manifest | {"tokenizer": escape},
        manifest | {"files": {escape: digest}},
        manifest | {"checkpoints": [manifest["checkpoints"][0] | {"path": escape}]},
        manifest | {"checkpoints": [manifest["checkpoints"][0] | {"files": {escape: digest}}]},
    ):
        write(tmp_path / "family", tampered)
        assert "inside the family's directory" in rejection(tmp_path / "family")


def test_a_link_that_leads_outside_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "family").mkdir()
    manifest = write_family(tmp_path / "family")
    (tmp_path / "outside").write_bytes(b"base")  # the bytes of base/weights, so that the hash matches
    (tmp_path / "family" / "base" / "weights").unlink()
    (tmp_path / "family" / "base" / "weights").symlink_to(tmp_path / "outside")
    assert "base/weights leads outside" in rejection(tmp_path / "family")
    assert manifest["checkpoints"][0]["files"]["base/weights"] == sha256(tmp_path / "outside")


@pytest.mark.parametrize(
    ("part", "value", "named"),
    [
        ("accuracy", {"mean": 1.0, "low": 0.5, "high": 1.5}, "accuracy must lie in"),
        ("accuracy", {"mean": 0.9, "low": 0.95, "high": 1.0}, "low <= mean <= high"),
        ("quantiles", {"p05": 1.0}, "p10 is missing"),
        ("quantiles", dict.fromkeys(get_args(families.QuantileName), 1.0) | {"p99": 0.5}, "must not fall"),
        ("prompts", 0, "prompts"),
    ],
)
def test_impossible_figures_are_rejected(part: str, value: object, named: str, tmp_path: Path) -> None:
    manifest = write_family(tmp_path)
    manifest["checkpoints"][0]["frontier"]["overall"][part] = value
    write(tmp_path, manifest)
    assert named in rejection(tmp_path)


def test_a_checkpoint_s_files_must_be_under_its_path(tmp_path: Path) -> None:
    manifest = write_family(tmp_path)
    manifest["checkpoints"][0]["path"] = "alpha-0.2"
    write(tmp_path, manifest)
    assert "is not under the path alpha-0.2" in rejection(tmp_path)


def test_two_checkpoints_with_the_same_name_are_rejected(tmp_path: Path) -> None:
    manifest = write_family(tmp_path)
    manifest["checkpoints"].append(manifest["checkpoints"][1])
    write(tmp_path, manifest)
    assert "duplicate name 'alpha-0.2'" in rejection(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"base": "no-such"}, "base"),
        ({"base": "alpha-0.2"}, "base"),
        ({"reference": "no-such"}, "reference"),
        ({"checkpoints": []}, "checkpoints"),
        ({"name": "Ab/acus"}, "name"),
        ({"context_tokens": 0}, "context_tokens"),
        ({"context_tokens": "many"}, "context_tokens"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_an_invalid_field_is_named(change: dict[str, object], named: str, tmp_path: Path) -> None:
    write(tmp_path, write_family(tmp_path) | change)
    assert named in rejection(tmp_path).removeprefix(str(tmp_path))


def test_an_interval_must_contain_its_mean(tmp_path: Path) -> None:
    manifest = write_family(tmp_path)
    manifest["checkpoints"][0]["frontier"]["overall"]["accuracy"] = {"mean": 0.9, "low": 0.95, "high": 1.0}
    write(tmp_path, manifest)
    assert "checkpoints.0.frontier.overall.accuracy" in rejection(tmp_path)


def test_a_missing_manifest_and_a_malformed_one_have_different_messages(tmp_path: Path) -> None:
    assert "cannot be read" in rejection(tmp_path)
    (tmp_path / families.MANIFEST).write_text("{")
    assert "not JSON" in rejection(tmp_path)
    (tmp_path / families.MANIFEST).write_text("[]")
    assert "schema_version" in rejection(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.sampled_from(sorted(Family.model_fields)), value=JSON)
def test_any_value_in_any_field_loads_or_is_rejected_in_one_line(tmp_path: Path, field: str, value: object) -> None:
    if not (tmp_path / "valid.json").exists():
        (tmp_path / "valid.json").write_text(json.dumps(write_family(tmp_path)))
    write(tmp_path, json.loads((tmp_path / "valid.json").read_text()) | {field: value})
    try:
        families.load(tmp_path)
    except FamilyError:
        rejection(tmp_path)


@pytest.mark.parametrize("path", ["a\nb", "a\0b", "x" * 5000, "\x1b[2J"])
def test_a_path_that_cannot_be_shown_or_opened_is_rejected(path: str, tmp_path: Path) -> None:
    manifest = write_family(tmp_path)
    write(tmp_path, manifest | {"files": {**manifest["files"], path: "0" * 64}})
    assert len(rejection(tmp_path)) < len(path) + 500


@pytest.mark.parametrize("version", ["x" * 1_000_000, "a\nb", [[[]]], 10**100])
def test_a_schema_version_of_any_size_is_rejected_in_a_short_line(version: object, tmp_path: Path) -> None:
    write(tmp_path, write_family(tmp_path) | {"schema_version": version})
    assert len(rejection(tmp_path)) < 500


@pytest.mark.parametrize("name", ["base/weights", "base/tokenizer.json", "profile.json"])
def test_a_listed_file_that_is_none_is_rejected(name: str, tmp_path: Path) -> None:
    write_family(tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    assert f"{name} is not a regular file" in rejection(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(tmp_path / name)
    assert f"{name} is a loop of symbolic links" in rejection(tmp_path)


@pytest.mark.parametrize("kind", ["fifo", "link to a file", "link to a directory"])
def test_what_a_checkpoint_s_directory_holds_besides_is_rejected(kind: str, tmp_path: Path) -> None:
    write_family(tmp_path)
    extra = tmp_path / "alpha-0.2" / "extra"
    if kind == "fifo":
        os.mkfifo(extra)
    else:
        extra.symlink_to(tmp_path / ("profile.json" if kind == "link to a file" else "base"))
    assert "alpha-0.2/extra is not listed" in rejection(tmp_path)


@pytest.mark.parametrize(("name", "largest"), [("profile.json", 64), ("base/tokenizer.json", 256)])
def test_a_huge_file_is_rejected_before_it_is_read(name: str, largest: int, tmp_path: Path) -> None:
    write_family(tmp_path)
    os.truncate(tmp_path / name, 1 << 40)
    assert f"{name} is larger than {largest} MiB" in rejection(tmp_path)


def served_manifest(directory: Path) -> dict[str, Any]:
    """A family of two levels of one model that an engine serves: no files but the profile."""
    manifest = write_family(directory)
    frontier = manifest["checkpoints"][0]["frontier"]
    thinking_off = {"body": {"chat_template_kwargs": {"enable_thinking": False}}}
    checkpoints = [
        {"name": "max", "kind": "served", "model": "Qwen/Qwen3-8B", "frontier": frontier, "answer_tokens": 120},
        {"name": "off", "kind": "served", "model": "Qwen/Qwen3-8B", "frontier": frontier, "overrides": thinking_off},
    ]
    changed = {"schema_version": 2, "base": None, "reference": "max", "tokenizer": None, "checkpoints": checkpoints}
    manifest |= changed
    write(directory, manifest)
    return manifest


def test_a_family_of_served_models_needs_no_files_but_the_profile(tmp_path: Path) -> None:
    served_manifest(tmp_path)
    for name in ("base", "alpha-0.2"):
        for file in list((tmp_path / name).iterdir()):
            file.unlink()
        (tmp_path / name).rmdir()
    family = families.load(tmp_path)
    assert (family.served_name("off"), family.engine_name("off")) == ("abacus/off", "Qwen/Qwen3-8B")
    assert family.by_engine_name() == {"Qwen/Qwen3-8B": {"max", "off"}}
    with pytest.raises(FamilyError, match="served elsewhere"):
        _ = family.base_checkpoint


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": None}, "needs the name that its engine has"),
        ({"path": "off"}, "a served checkpoint has none"),
        ({"kind": "lora"}, "a trained checkpoint needs a path"),
        ({"overrides": {"body": {"messages": []}}}, "messages cannot be overridden"),
        ({"cap": "magic"}, "cap"),
        ({"budget": 0}, "budget"),
    ],
)
def test_a_served_checkpoint_that_is_incomplete_is_rejected(
    change: dict[str, object], named: str, tmp_path: Path
) -> None:
    manifest = served_manifest(tmp_path)
    manifest["checkpoints"][1] |= change
    write(tmp_path, manifest)
    assert named in rejection(tmp_path)


def test_a_family_without_marks_has_no_caps(tmp_path: Path) -> None:
    manifest: dict[str, Any] = served_manifest(tmp_path) | {"reasoning": None}
    write(tmp_path, manifest)
    assert "nothing marks the end of its thinking" in rejection(tmp_path)
    for checkpoint in manifest["checkpoints"]:
        checkpoint["cap"] = "none"
    write(tmp_path, manifest)
    assert families.load(tmp_path).reasoning is None


def test_the_gateway_needs_no_weights(tmp_path: Path) -> None:
    write_family(tmp_path)
    (tmp_path / "alpha-0.2" / "weights").unlink()
    assert families.load(tmp_path, verify=False).name == "abacus"
    (tmp_path / "profile.json").unlink()
    with pytest.raises(FamilyError, match=r"profile\.json is missing"):
        families.load(tmp_path, verify=False)


def test_the_ladder_is_by_alpha_or_as_measured(tmp_path: Path) -> None:
    (tmp_path / "trained").mkdir()
    (tmp_path / "served").mkdir()
    write_family(tmp_path / "trained")
    assert families.load(tmp_path / "trained").ladder() == ["base", "alpha-0.2"]
    manifest = served_manifest(tmp_path / "served")
    manifest["checkpoints"] = manifest["checkpoints"][::-1]
    for checkpoint, mean in zip(manifest["checkpoints"], (5.0, 90.0), strict=True):
        estimate = {"mean": mean, "low": mean, "high": mean}
        overall = {**checkpoint["frontier"]["overall"], "reasoning_tokens": estimate}
        checkpoint["frontier"] = {**checkpoint["frontier"], "overall": overall}
    write(tmp_path / "served", manifest)
    assert families.load(tmp_path / "served").ladder() == ["max", "off"]
