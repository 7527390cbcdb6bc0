"""Figures from few prompts, or of a reference that is never right, say so."""

from __future__ import annotations

from training.profile.enough import FEW, never_right, warning


def test_few_prompts_are_named_and_enough_are_not() -> None:
    said = warning(25, "profile.prompts:")
    assert said is not None
    assert said.startswith("profile.prompts: 25 prompts: that is few. ")
    assert "uncertain by 20 points either way" in said
    assert warning(FEW - 1) is not None
    assert warning(FEW) is None


def test_a_reference_that_is_never_right_shows_nothing() -> None:
    said = never_right("max", 0.0)
    assert said is not None
    assert said.startswith("max is right on no prompt")
    assert never_right("max", 0.01) is None
