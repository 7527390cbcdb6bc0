"""When a conversation keeps its checkpoint, moves up, or moves down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing import rule
from gateway.routing.conversation import PROMPT_PRICE, LastTurn, choose, harder, shares_cache
from gateway.routing.rule import Decision, RoutingRequest
from models.family import Family
from models.overrides import Overrides
from models.prediction import LEVELS, ChoicePrediction, Escalation, Forecast, Prediction
from models.rule import cheapest_good_enough
from tests.gateway.routing.test_rule import ALL, prediction, prompt
from tests.gateway.served import build_served_family

EASY = prompt(base=prediction(0.95, 80, 120), alpha_1=prediction(0.95, 40, 60), alpha_4=prediction(0.95, 10, 20))
HARD = prompt(base=prediction(0.90, 80, 120), alpha_1=prediction(0.70, 40, 60), alpha_4=prediction(0.30, 10, 20))


def decide(
    family: Family, prediction: Prediction | None, last: LastTurn | None, *, known: bool = True, **more: Any
) -> Decision:
    request = {"limit": None, "tolerance": 0.01, "allowed": ALL, "available": ALL, "in_conversation": known, **more}
    return rule.decide(family, RoutingRequest(prediction=prediction, last=last, **request))


def test_a_first_turn_is_routed_by_itself(family: Family) -> None:
    decision = decide(family, EASY, None)
    assert (decision.checkpoint, decision.move) == ("alpha-0.4", "begun")
    assert decide(family, EASY, None, known=False).move == "none"


def test_a_conversation_keeps_its_checkpoint_while_the_cache_is_worth_more_than_the_saving(family: Family) -> None:
    """alpha-0.4 would save 35 of 50 tokens; the cache is worth a tenth of its tokens."""
    decision = decide(family, EASY, LastTurn("alpha-0.1", 400))
    assert (decision.checkpoint, decision.kind, decision.move) == ("alpha-0.1", "routed", "kept")
    assert decision.reason == "kept: alpha-0.4 would save 35 tokens and lose 400 cached prompt tokens, worth 40"


def test_it_moves_down_when_that_saves_more_than_the_cache_is_worth(family: Family) -> None:
    decision = decide(family, EASY, LastTurn("alpha-0.1", 300))
    assert (decision.checkpoint, decision.move) == ("alpha-0.4", "moved_down")
    assert decision.reason == "moved down: that saves 35 tokens and loses 300 cached prompt tokens, worth 30"


def test_it_moves_up_when_its_checkpoint_is_not_good_enough_whatever_the_cache_is_worth(family: Family) -> None:
    decision = decide(family, HARD, LastTurn("alpha-0.4", 100_000))
    assert (decision.checkpoint, decision.move) == ("base", "moved_up")
    assert decision.reason == "moved up: alpha-0.4 is not good enough for this turn"


def test_a_move_to_a_choice_that_thinks_less_is_down_whatever_the_reason(family: Family) -> None:
    """The ladder's top may fail where a lower level does not."""
    odd = prompt(base=prediction(0.3, 80, 120), alpha_1=prediction(0.5, 40, 60), alpha_4=prediction(0.9, 10, 20))
    decision = decide(family, odd, LastTurn("base", 100_000))
    assert (decision.checkpoint, decision.move) == ("alpha-0.4", "moved_down")
    assert decision.reason == "moved down: base is not good enough for this turn"


def test_a_move_to_a_choice_that_thinks_longer_is_up_though_a_short_answer_makes_it_cheaper(family: Family) -> None:
    forecasts = {"alpha-0.1": Forecast(0.9, 50, 50, 10), "alpha-0.4": Forecast(0.9, 15, 15, 400)}
    turn = choose(family, forecasts, {name: name for name in forecasts}, 0.01, LastTurn("alpha-0.4", 100))
    assert (turn.choice, turn.move) == ("alpha-0.1", "moved_up")
    assert turn.reason == "moved up: that saves 355 tokens and loses 100 cached prompt tokens, worth 10"


def test_the_cheapest_checkpoint_is_kept_without_ado(family: Family) -> None:
    decision = decide(family, EASY, LastTurn("alpha-0.4", 0))
    assert (decision.checkpoint, decision.move) == ("alpha-0.4", "kept")
    assert decision.reason == "kept: alpha-0.4 answered the last turn"


def test_after_a_turn_that_hit_its_budget_it_moves_up_to_one_that_is_no_worse(family: Family) -> None:
    decision = decide(family, EASY, LastTurn("alpha-0.4", 100, strained=True))
    assert (decision.checkpoint, decision.move) == ("alpha-0.1", "moved_up")
    worse = prompt(base=prediction(0.93, 80, 120), alpha_1=prediction(0.93, 40, 60), alpha_4=prediction(0.94, 10, 20))
    kept = decide(family, worse, LastTurn("alpha-0.4", 100, strained=True), tolerance=0.05)
    assert (kept.checkpoint, kept.move) == ("alpha-0.4", "kept")


def test_an_escalation_that_begins_with_the_conversations_checkpoint_finds_its_cache(family: Family) -> None:
    escalation = Escalation(first="alpha-0.4", second="base", surprisal=1.5)
    escalated = ChoicePrediction(0.95, np.linspace(20, 30, len(LEVELS)), escalation=escalation)
    choices = {
        "base": prediction(0.95, 80, 120),
        "alpha-0.1": prediction(0.95, 10, 20),
        "alpha-0.4": prediction(0.5, 10, 20),
        "alpha-0.4>base@10%": escalated,
    }
    decision = decide(family, Prediction(0.25, True, choices), LastTurn("alpha-0.4", 1000))
    assert (decision.choice, decision.checkpoint, decision.move) == ("alpha-0.4>base@10%", "alpha-0.4", "kept")


def test_a_conversation_whose_checkpoint_is_down_or_forbidden_begins_anew(family: Family) -> None:
    last = LastTurn("alpha-0.1", 100_000)
    assert decide(family, EASY, last, available=ALL - {"alpha-0.1"}).move == "begun"
    both = ALL - {"alpha-0.1"}
    assert decide(family, EASY, last, allowed=both, available=both).checkpoint == "alpha-0.4"


@pytest.mark.parametrize("last", [None, LastTurn("alpha-0.1", 100_000)])
def test_pinned_and_abstained_turns_are_not_the_conversations(family: Family, last: LastTurn | None) -> None:
    pinned = decide(family, EASY, last, pinned="base")
    assert (pinned.checkpoint, pinned.kind, pinned.move) == ("base", "pinned", "none")
    abstained = decide(family, None, last)
    assert (abstained.checkpoint, abstained.kind, abstained.move) == ("base", "abstained", "none")


def test_a_holdout_goes_to_the_reference_and_its_choice_is_the_conversations(family: Family) -> None:
    """The draw must not depend on the conversation, nor the choice on the draw."""
    last = LastTurn("alpha-0.1", 100_000)
    holdout = decide(family, EASY, last, holdout=True)
    assert (holdout.checkpoint, holdout.kind) == ("base", "holdout")
    assert holdout.choice == decide(family, EASY, last).choice == "alpha-0.1"


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 500)), min_size=3, max_size=3),
    st.sampled_from(sorted(ALL)),
    st.integers(0, 10_000),
    st.floats(0, 0.2),
)
def test_the_choice_is_good_enough_and_never_dearer_than_leaving(
    family: Family, values: list[tuple[float, float]], held: str, cached: int, tolerance: float
) -> None:
    forecasts = {name: Forecast(s, t, t) for name, (s, t) in zip(sorted(ALL), values, strict=True)}
    starts = {name: name for name in forecasts}
    kept = choose(family, forecasts, starts, tolerance, LastTurn(held, cached))
    cheapest = cheapest_good_enough(forecasts, tolerance)
    assert forecasts[kept.choice].success >= max(f.success for f in forecasts.values()) - tolerance
    assert forecasts[kept.choice].tokens <= forecasts[cheapest].tokens + PROMPT_PRICE * cached
    assert kept.choice in (held, cheapest)
    assert (kept.move == "kept") == (kept.choice == held)


def test_levels_of_one_served_model_share_the_cache_unless_their_system_prompts_differ(tmp_path: Path) -> None:
    served = build_served_family(tmp_path / "family")
    assert shares_cache(served, "base", "alpha-0.4")
    brief = served.checkpoint("alpha-0.4").model_copy(update={"overrides": Overrides(system="Be brief.")})
    others = tuple(one for one in served.checkpoints if one.name != "alpha-0.4")
    prompted = served.model_copy(update={"checkpoints": (*others, brief)})
    assert not shares_cache(prompted, "base", "alpha-0.4")
    assert shares_cache(prompted, "alpha-0.4", "alpha-0.4")


def test_adapters_do_not_share_the_cache(family: Family) -> None:
    assert not shares_cache(family, "base", "alpha-0.4")


def test_of_a_turn_alone_and_in_its_context_the_harder_counts_if_the_profile_knows_both() -> None:
    assert harder(EASY, HARD) is HARD
    assert harder(HARD, EASY) is HARD
    unfamiliar = Prediction(0.9, False, HARD.choices)
    assert harder(EASY, unfamiliar) is EASY
    assert harder(unfamiliar, EASY) is EASY
