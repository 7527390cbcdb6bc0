"""Figures from few prompts say so."""

from __future__ import annotations

from training.profile.enough import FEW, warning


def test_few_prompts_are_named_and_enough_are_not() -> None:
    said = warning(25, "profile.prompts:")
    assert said is not None
    assert said.startswith("profile.prompts: 25 prompts: that is few. ")
    assert "uncertain by 20 points either way" in said
    assert warning(FEW - 1) is not None
    assert warning(FEW) is None
