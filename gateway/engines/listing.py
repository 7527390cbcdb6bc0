"""What does an engine say that it serves? Its list of models, which may be anything. Pure."""

from __future__ import annotations

from collections.abc import Set

from gateway.events import objects, parse_object

MAX_LIST_BYTES = 2**20
"""A thousand adapters need about half of it. Parsing more would hold up every request."""
SHOWN_NAMES = 5
SHOWN_CHARACTERS = 60


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


def shown(names: Set[str]) -> str:
    """Names for the log, however many and whatever they are: the first few, in ASCII, without line ends."""
    if not names:
        return "nothing"
    first = sorted(names)[:SHOWN_NAMES]
    text = ", ".join(ascii(name[:SHOWN_CHARACTERS]) for name in first)
    return text if len(first) == len(names) else f"{text} and {len(names) - len(first)} more"
