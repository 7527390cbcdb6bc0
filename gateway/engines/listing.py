"""What does an engine say that it serves? Its list of models, which may be anything. Pure."""

from __future__ import annotations

from gateway.events import objects, parse_object

MAX_LIST_BYTES = 2**20
"""A thousand adapters need about half of it. Parsing more would hold up every request."""


def served_models(body: bytes) -> frozenset[str] | None:
    """The ids in a list of models; None if it is no such list. An entry that has no id is skipped."""
    try:
        listed = parse_object(body)
    except RecursionError:
        return None
    if listed is None or not isinstance(listed.get("data"), list):
        return None
    ids = (model.get("id") for model in objects(listed["data"]))
    return frozenset(name for name in ids if isinstance(name, str))
