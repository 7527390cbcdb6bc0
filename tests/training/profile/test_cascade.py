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


def test_an_unsure_sample_is_escalated_to_the_second_checkpoint_s_sample_of_the_same_number():
    brief = row(outcome(True, 10, 0.5), outcome(False, 11, 2.0), outcome(True, 12, 1.5))
    long = row(outcome(False, 100), outcome(True, 101), outcome(False, 102))
    (escalated,) = simulated([brief], [long], 1.5)
    assert [(o.correct, o.reasoning_tokens, o.tokens) for o in escalated.outcomes] == [
        (True, 10, 19),
        (True, 112, 121),
        (True, 12, 21),  # not above the threshold
    ]


def test_thinking_that_never_ended_is_not_escalated():
    (unchanged,) = simulated([row(outcome(False, 300, 9.0, ended=False))], [row(outcome(True, 100))], 1.5)
    assert (unchanged.outcomes[0].correct, unchanged.outcomes[0].reasoning_tokens) == (False, 300)


def measured(right: float, tokens: int, *, knows: bool | None, seed: int) -> list[Graded]:
    """A checkpoint on 400 prompts. `knows` says whether its surprisal tells correct from wrong; None: no surprisal."""
    rng = np.random.default_rng(seed)

    def one() -> Outcome:
        correct = bool(rng.random() < right)
        surprisal = None if knows is None else float(rng.random() + 2 * (knows and not correct))
        return outcome(correct, tokens, surprisal)

    return [row(one(), one()) for _ in range(400)]


def test_a_checkpoint_that_knows_when_it_is_wrong_is_worth_escalating():
    escalations = worthwhile(
        {"base": measured(0.95, 100, knows=None, seed=0), "alpha-0.4": measured(0.85, 20, knows=True, seed=1)}
    )
    assert set(escalations) <= {f"alpha-0.4>base@{share}%" for share in (5, 10, 20, 30)}
    escalation, rows = escalations["alpha-0.4>base@20%"]
    assert (escalation.first, escalation.second) == ("alpha-0.4", "base")
    escalated = [o for r in rows for o in r.outcomes if o.reasoning_tokens > 20]
    assert len(escalated) == pytest.approx(160, abs=2)
    assert all(o.reasoning_tokens == 120 for o in escalated)
    assert np.mean([r.accuracy for r in rows]) > 0.95


def test_a_checkpoint_that_does_not_know_is_not_worth_escalating():
    """Escalating would be no better than a random choice between the two, at the tokens of both."""
    rows = {"base": measured(0.95, 100, knows=None, seed=0), "alpha-0.4": measured(0.85, 60, knows=False, seed=1)}
    assert worthwhile(rows) == {}


def test_the_second_thinks_longer_and_the_first_has_surprisals():
    brief, long = measured(0.85, 20, knows=True, seed=1), measured(0.95, 100, knows=True, seed=0)
    escalations = worthwhile({"base": long, "alpha-0.4": brief})
    assert {escalation.first for escalation, _ in escalations.values()} == {"alpha-0.4"}
    unknown = [Graded(r.prompt, r.task, r.difficulty, tuple(outcome(o.correct, 20) for o in r.outcomes)) for r in brief]
    assert worthwhile({"base": long, "alpha-0.4": unknown}) == {}


@given(st.dictionaries(st.text(max_size=3), st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1))
def test_the_frontier_is_what_no_mixture_of_others_beats(points):
    hull = frontier(points)
    assert hull
    best = max(accuracy for _, accuracy in points.values())
    for name, (tokens, accuracy) in points.items():
        # The best mixture of two at this cost or less.
        cheaper = [p for p in points.values() if p[0] <= tokens]
        dearer = [p for p in points.values() if p[0] > tokens]
        reached = [a for _, a in cheaper]
        reached += [a + (b - a) * (tokens - x) / (y - x) for x, a in cheaper for y, b in dearer]
        assert (accuracy >= max(reached) - 1e-9) or name not in hull
    assert any(points[name][1] == best for name in hull)


def test_the_auc_of_surprisal_is_how_often_a_wrong_sample_has_the_higher_one():
    samples = [outcome(False, 1, 2.0), outcome(False, 1, 0.5), outcome(True, 1, 1.0), outcome(True, 1, 0.1)]
    assert surprisal_auc([row(*samples)]) == pytest.approx(3 / 4)
    assert surprisal_auc([row(*samples, outcome(True, 1))]) is None
    assert surprisal_auc([row(outcome(True, 1, 0.1))]) is None
