"""Which share of the reference's quality is routing certain to keep? A section of a family's card."""

from __future__ import annotations

from collections.abc import Sequence

from models.floor import Certified, Floor


def section(floors: Sequence[Floor], reference: str) -> str:
    """Every floor with what keeps it, as Markdown; empty for a profile without floors.

    Args:
        floors: of the profile, the lowest first.
        reference: its name.
    """
    if not floors:
        return ""
    confidence = f"{100 * floors[0].confidence:.0f} % confidence"
    return "\n".join(
        [
            f"Each line holds with {confidence} by itself, tested on {floors[0].prompts:,} prompts",
            f"(`--quality-floor`). Where nothing is certified, `{reference}` serves everything.",
            "",
            "| floor | tolerance | accuracy kept | of its tokens |",
            "| --- | --- | --- | --- |",
            *(_row(floor) for floor in floors),
        ]
    )


def line(floor: Floor, reference: str) -> str:
    """What is certified for one floor, as a sentence."""
    way = floor.way(may_escalate=True)
    if way is None:
        return f"quality floor {floor.floor:g}: {refusal(floor)}, so {reference} serves everything"
    return (
        f"quality floor {floor.floor:g}: certified at a tolerance of {way.tolerance:g}{_escalating(floor, way)}, with"
        f" {100 * floor.confidence:.0f} % confidence"
    )


def refusal(floor: Floor) -> str:
    """Why nothing is certified."""
    if floor.needed is None:
        return f"not certified; on {floor.prompts:,} prompts routing did not keep it"
    return f"not certified with {floor.prompts:,} prompts; it would take about {floor.needed:,}"


def _row(floor: Floor) -> str:
    way = floor.way(may_escalate=True)
    if way is None:
        return f"| {floor.floor:g} | {refusal(floor)} | | |"
    kept = f"{100 * way.kept:.1f} % (at least {100 * way.low:.1f} %)"
    return f"| {floor.floor:g} | {way.tolerance:g}{_escalating(floor, way)} | {kept} | {100 * way.tokens:.0f} % |"


def _escalating(floor: Floor, way: Certified) -> str:
    return " with escalations" if way is floor.escalating else ""
