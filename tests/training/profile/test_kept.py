"""Does the card say what is certified, and what is missing where nothing is?"""

from __future__ import annotations

from models.floor import Certified, Floor
from training.profile import kept

WAY = Certified(tolerance=0.02, kept=0.996, low=0.981, tokens=0.41)


def floor(share: float, alone: Certified | None = None, needed: int | None = None) -> Floor:
    return Floor(floor=share, confidence=0.95, prompts=300, alone=alone, escalating=None, needed=needed)


def test_every_floor_has_a_row() -> None:
    said = kept.section([floor(0.98, WAY), floor(0.99, needed=1200), floor(0.995)], "max")
    assert "| 0.98 | 0.02 | 99.6 % (at least 98.1 %) | 41 % |" in said
    assert "| 0.99 | not certified with 300 prompts; it would take about 1,200 | | |" in said
    assert "| 0.995 | not certified; on 300 prompts routing did not keep it | | |" in said
    assert "`max` serves everything" in said


def test_a_profile_without_floors_has_no_section() -> None:
    assert not kept.section([], "max")


def test_escalations_are_named() -> None:
    both = Floor(floor=0.98, confidence=0.95, prompts=300, alone=None, escalating=WAY, needed=None)
    assert kept.line(both, "base") == (
        "quality floor 0.98: certified at a tolerance of 0.02 with escalations, with 95 % confidence"
    )
