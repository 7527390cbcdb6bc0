"""What does the profile certify for the quality floor that is set, and what is said about it? Pure."""

from __future__ import annotations

from collections.abc import Sequence

from models.floor import Floor, at_least
from models.stored import ProfileError


def floor_of(asked: float | None, floors: Sequence[Floor]) -> Floor | None:
    """The lowest of the profile's floors that implies the one that is asked for; None if none is.

    Raises:
        ProfileError: the profile was not tested at such a floor, or at any.
    """
    if asked is None:
        return None
    if (floor := at_least(floors, asked)) is not None:
        return floor
    tested = ", ".join(f"{one.floor:g}" for one in floors)
    what = f"was tested at {tested} only" if tested else "was not tested at any floor"
    raise ProfileError(
        f"quality_floor: the family's profile {what}; fit it again with `laconic adopt --quality-floor {asked:g}`, or"
        " with `laconic-train profile RECIPE`, and then `laconic-train publish RECIPE`"
    )


def notice(floor: Floor, reference: str) -> str:
    """What a start under this floor means, in a sentence."""
    if (way := floor.way(may_escalate=True)) is not None:
        what = "checkpoints and escalations" if way is floor.escalating else "checkpoints"
        return (
            f"quality floor {floor.floor:g}: a tolerance of {way.tolerance:g} between {what} is certified with"
            f" {100 * floor.confidence:.0f} % confidence on {floor.prompts:,} prompts"
        )
    why = f"routing did not keep it on {floor.prompts:,} prompts"
    if floor.needed is not None:
        why = f"{floor.prompts:,} prompts are too few, it would take about {floor.needed:,}"
    return f"quality floor {floor.floor:g}: not certified ({why}), so {reference} serves everything"
