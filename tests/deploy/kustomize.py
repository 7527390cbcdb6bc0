"""What does `kubectl kustomize` make of a directory? A small, strict reader of what deploy/kubernetes uses of it.

No package that could be installed with the tests carries kustomize. Where `kubectl` is installed, `test_kustomize.py`
compares the two. Anything that this reader does not know is an error.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
_KNOWN = {"apiVersion", "kind", "namespace", "resources", "components", "images", "patches"}
_CLUSTER_WIDE = {"Namespace"}


def render(directory: Path) -> list[Object]:
    """The objects of a kustomization.

    Raises:
        ValueError: it uses something that this reader does not know, or a patch does not fit.
    """
    return _apply(directory, [])


def read(file: Path) -> list[Object]:
    """The objects of a file."""
    return [one for one in yaml.safe_load_all(file.read_text()) if one is not None]


def _apply(directory: Path, objects: list[Object]) -> list[Object]:
    kustomization = yaml.safe_load((directory / "kustomization.yaml").read_text())
    if unknown := set(kustomization) - _KNOWN:
        raise ValueError(f"{directory}: {sorted(unknown)} is not known here")
    for name in kustomization.get("resources", []):
        path = directory / name
        objects = [*objects, *(render(path) if path.is_dir() else read(path))]
    for name in kustomization.get("components", []):
        objects = _apply(directory / name, objects)
    for patch in kustomization.get("patches", []):
        objects = _patched(objects, patch, directory)
    for one in objects:
        if "namespace" in kustomization and one["kind"] not in _CLUSTER_WIDE:
            one["metadata"]["namespace"] = kustomization["namespace"]
        for image in kustomization.get("images", []):
            _rename(one, image)
    return objects


def _patched(objects: list[Object], patch: Object, directory: Path) -> list[Object]:
    target = patch["target"]
    text = patch["patch"] if "patch" in patch else (directory / patch["path"]).read_text()
    steps = yaml.safe_load(text)
    hit = [one for one in objects if (one["kind"], one["metadata"]["name"]) == (target["kind"], target["name"])]
    if len(hit) != 1:
        raise ValueError(f"{directory}: the patch of {target} fits {len(hit)} objects")
    if isinstance(steps, dict):
        if steps.get("$patch") != "delete":
            raise ValueError(f"{directory}: of merging patches, only $patch: delete is known here")
        return [one for one in objects if one is not hit[0]]
    for step in steps:
        _step(hit[0], step)
    return objects


def _step(document: Object, step: Object) -> None:
    """One step of RFC 6902, in place."""
    *parents, last = step["path"].lstrip("/").replace("~1", "/").replace("~0", "~").split("/")
    place: Any = document
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place[name]
    value = copy.deepcopy(step.get("value"))
    match step["op"], place:
        case "test", _:
            if (place[int(last)] if isinstance(place, list) else place[last]) != value:
                raise ValueError(f"{step['path']} is not {value}")
        case "add", list():
            place.insert(len(place) if last == "-" else int(last), value)
        case "add", dict():
            place[last] = value
        case "replace", list():
            place[int(last)] = value
        case "replace", dict() if last in place:
            place[last] = value
        case "remove", list():
            del place[int(last)]
        case "remove", dict():
            del place[last]
        case _:
            raise ValueError(f"{step['op']} {step['path']} does not fit")


def _rename(one: Object, image: Object) -> None:
    pod = pod_of(one)
    for container in containers(pod) if pod else []:
        name, _, tag = container["image"].partition(":")
        if name == image["name"]:
            new_tag = image.get("newTag", tag)
            container["image"] = image.get("newName", name) + (f":{new_tag}" if new_tag else "")


def pod_of(one: Object) -> Object | None:
    """The specification of the pods that an object makes, or is."""
    if one["kind"] == "Pod":
        return one["spec"]
    return one["spec"]["template"]["spec"] if one["kind"] in {"Deployment", "StatefulSet"} else None


def containers(pod: Object) -> list[Object]:
    """The containers of a pod, those that run first included."""
    return [*pod.get("initContainers", []), *pod["containers"]]
