from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.profile.cascade import frontier, simulated, surprisal_auc, worthwhile
from training.tasks.outcome import Graded, Outcome


def outcome(correct: bool, tokens: int, surprisal: float | None = None, *, ended: bool = True) -> Outcome:
    return Outcome(correct, tokens, tokens + 9 * ended, 1, ended, surprisal=surprisal)


def row(*outcomes: Outcome) -> Graded:
    return Graded("p", "sum", "easy", outcomes)


def test_each_unsure_sample_is_thought_anew_by_the_other_s_of_the_same_number():
    brief = row(outcome(True, 10, 0.5), outcome(False, 11, 2.0), outcome(True, 12, 1.5))
    long = row(outcome(False, 100), outcome(True, 101), outcome(False, 102))
    (found,) = simulated([brief], [long], 1.5)
    assert [(o.correct, o.reasoning_tokens, o.tokens) for o in found.outcomes] == [
        (True, 10, 19),
        (True, 112, 121),
        (True, 12, 21),  # no more than the threshold
    ]


def test_thinking_that_never_ended_has_taken_what_there_was():
    (found,) = simulated([row(outcome(False, 300, 9.0, ended=False))], [row(outcome(True, 100))], 1.5)
    assert (found.outcomes[0].correct, found.outcomes[0].reasoning_tokens) == (False, 300)


def measured(right: float, tokens: int, *, knows: bool | None, seed: int) -> list[Graded]:
    """A checkpoint on 400 prompts; `knows`: whether its surprisal tells right from wrong, None where there is none."""
    rng = np.random.default_rng(seed)

    def one() -> Outcome:
        correct = bool(rng.random() < right)
        surprisal = None if knows is None else float(rng.random() + 2 * (knows and not correct))
        return outcome(correct, tokens, surprisal)

    return [row(one(), one()) for _ in range(400)]


def test_what_knows_when_it_is_wrong_is_worth_second_thoughts():
    found = worthwhile(
        {"base": measured(0.95, 100, knows=None, seed=0), "alpha-0.4": measured(0.85, 20, knows=True, seed=1)}
    )
    assert set(found) <= {f"alpha-0.4+{share}%-base" for share in (5, 10, 20, 30)}
    escalation, rows = found["alpha-0.4>base@20%"]
    assert (escalation.first, escalation.second) == ("alpha-0.4", "base")
    escalated = [o for r in rows for o in r.outcomes if o.reasoning_tokens > 20]
    assert len(escalated) == pytest.approx(160, abs=2)
    assert all(o.reasoning_tokens == 120 for o in escalated)
    assert np.mean([r.accuracy for r in rows]) > 0.95


def test_what_does_not_know_is_not():
    """No better than tossing a coin between the two, and the tokens of both."""
    rows = {"base": measured(0.95, 100, knows=None, seed=0), "alpha-0.4": measured(0.85, 60, knows=False, seed=1)}
    assert worthwhile(rows) == {}


def test_nobody_is_second_who_thinks_no_longer_nor_first_whose_surprisal_is_unknown():
    brief, long = measured(0.85, 20, knows=True, seed=1), measured(0.95, 100, knows=True, seed=0)
    found = worthwhile({"base": long, "alpha-0.4": brief})
    assert {escalation.first for escalation, _ in found.values()} == {"alpha-0.4"}
    unknown = [Graded(r.prompt, r.task, r.difficulty, tuple(outcome(o.correct, 20) for o in r.outcomes)) for r in brief]
    assert worthwhile({"base": long, "alpha-0.4": unknown}) == {}


@given(st.dictionaries(st.text(max_size=3), st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1))
def test_the_frontier_is_what_no_mixture_of_others_beats(places):
    kept = frontier(places)
    assert kept
    best = max(accuracy for _, accuracy in places.values())
    for name, (tokens, accuracy) in places.items():
        # The best mixture of two at this cost, or less.
        cheaper = [p for p in places.values() if p[0] <= tokens]
        dearer = [p for p in places.values() if p[0] > tokens]
        reached = [a for _, a in cheaper]
        reached += [a + (b - a) * (tokens - x) / (y - x) for x, a in cheaper for y, b in dearer]
        assert (accuracy >= max(reached) - 1e-9) or name not in kept
    assert any(places[name][1] == best for name in kept)


def test_the_auc_of_surprisal_is_how_often_a_wrong_sample_is_the_more_surprised():
    samples = [outcome(False, 1, 2.0), outcome(False, 1, 0.5), outcome(True, 1, 1.0), outcome(True, 1, 0.1)]
    assert surprisal_auc([row(*samples)]) == pytest.approx(3 / 4)
    assert surprisal_auc([row(*samples, outcome(True, 1))]) is None
    assert surprisal_auc([row(outcome(True, 1, 0.1))]) is None
