"""Does the small reader of kustomizations say what `kubectl kustomize` says, and refuse what it does not know?"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.kustomize import render

DIRECTORY = Path(__file__).parent.parent.parent / "deploy/kubernetes"
OBJECT = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {b: c}\n"


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl here")
@pytest.mark.parametrize("place", ["base", "overlays/dev", "overlays/production"])
def test_it_renders_what_kubectl_renders(place: str) -> None:
    command = ["kubectl", "kustomize", str(DIRECTORY / place)]
    expected = list(yaml.safe_load_all(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    found = render(DIRECTORY / place)
    names = [[(one["kind"], one["metadata"]["name"]) for one in objects] for objects in (expected, found)]
    assert sorted(names[0]) == sorted(names[1])
    for one in expected:
        assert one in found, one["metadata"]["name"]


@pytest.mark.parametrize(
    ("kustomization", "problem"),
    [
        ("namePrefix: my-\n", "namePrefix"),
        ("patches: [{target: {kind: ConfigMap, name: b}, patch: '- {op: remove, path: /data/b}'}]\n", "fits 0 objects"),
        ("patches: [{target: {kind: ConfigMap, name: a}, patch: 'data: {b: d}'}]\n", "only \\$patch"),
        ("patches: [{target: {kind: ConfigMap, name: a}, patch: '- {op: replace, path: /data/x}'}]\n", "does not fit"),
        ("patches: [{target: {kind: ConfigMap, name: a}, patch: '- {op: test, path: /data/b, value: d}'}]\n", "is not"),
    ],
)
def test_what_it_does_not_know_is_refused(kustomization: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(OBJECT)
    (tmp_path / "kustomization.yaml").write_text(f"resources: [a.yaml]\n{kustomization}")
    with pytest.raises(ValueError, match=problem):
        render(tmp_path)
