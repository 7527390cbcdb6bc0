"""A family's manifest says how its checkpoints state their answers."""

from __future__ import annotations

from training.config import Recipe
from training.publish import assemble
from training.recipe_base import ColdStart


def test_a_cold_started_family_answers_in_the_words_of_its_cold_start(on_shipped: Recipe) -> None:
    base = on_shipped.base.model_copy(update={"cold_start": ColdStart()})
    family = on_shipped.family.model_copy(update={"reward": "alpha"})
    recipe = on_shipped.model_copy(update={"base": base, "family": family})
    assert assemble._answer_prefix(recipe) == "The answer is \\boxed{"
    assert assemble._answer_prefix(on_shipped) == "The answer is "
