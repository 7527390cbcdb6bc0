"""What does an engine say that it serves? Its list of models, which may be anything. Pure."""

from __future__ import annotations

from gateway.events import integer_at, objects, parse_object

MAX_LIST_BYTES = 2**20
"""A thousand adapters need about half of it. Parsing more would hold up every request."""


MAX_CONTEXT = 2**31


def served_models(body: bytes) -> dict[str, int | None] | None:
    """The ids in a list of models, each with its context in tokens if it is told; None if it is no such list.

    An entry that has no id is skipped. vLLM and SGLang call the context `max_model_len`.
    """
    try:
        listed = parse_object(body)
    except RecursionError:
        return None
    if listed is None or not isinstance(listed.get("data"), list):
        return None
    found = ((model.get("id"), integer_at(model, "max_model_len")) for model in objects(listed["data"]))
    return {name: size if 0 < size < MAX_CONTEXT else None for name, size in found if isinstance(name, str)}
