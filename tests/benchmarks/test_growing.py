from __future__ import annotations

import pytest

from benchmarks import growing


@pytest.mark.parametrize(("checkpoints", "escalations"), [(2, 0), (12, 64), (64, 1)])
def test_a_grown_profile_predicts_every_checkpoint_and_escalation_like_the_shipped_one_does(
    checkpoints: int, escalations: int
) -> None:
    prediction = growing.profile_of(checkpoints, escalations).predict("What is 12 + 35 - 8?")
    choices = prediction.choices
    assert prediction.familiar
    assert len(choices) == checkpoints + escalations
    assert sum(choice.escalation is not None for choice in choices.values()) == escalations
    assert all(0.5 < choice.p_correct <= 1 and choice.expected_tokens() > 5 for choice in choices.values())


async def test_work_of_both_kinds_is_timed_once_to_warm_up_and_then_several_times() -> None:
    ran: list[str] = []

    def spin() -> None:
        ran.append("plain")
        sum(range(100_000))

    async def spin_later() -> None:
        ran.append("awaited")
        sum(range(100_000))

    assert await growing.timed(spin) > 0
    assert await growing.timed(spin_later) > 0
    assert min(ran.count("plain"), ran.count("awaited")) > growing.REPEATS
