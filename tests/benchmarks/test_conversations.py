"""The simulated day: its conversations, and what becomes of their figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.conversations import ARMS, MAX_TURNS, Record, conversation, left_of, read, results

KEPT = Record(0, "kept", True, [20, 50, 80], [0, 32, 64], [10, 10, 30], [True, True, False], ["a"] * 3, ["begun"] * 3)
BY_TURN = replace(KEPT, arm="by turn", cached=[0, 0, 32], checkpoints=["a", "b", "a"], moves=["none"] * 3)


def test_a_conversation_is_reproducible_and_has_1_to_20_turns() -> None:
    lengths = set()
    for number in range(100):
        again, turns = conversation(number)
        assert (again, turns) == conversation(number)
        assert len({turn.answer for turn in turns}) == 1 or not again
        lengths.add(len(turns))
    assert {1, MAX_TURNS} <= lengths <= set(range(1, MAX_TURNS + 1))


def test_computed_tokens_are_those_that_were_not_cached() -> None:
    figures = results([KEPT, BY_TURN])
    assert (figures["conversations"], figures["turns"]) == (1, 3)
    assert figures["arms"]["kept"]["computed prompt tokens a turn"]["mean"] == pytest.approx((150 - 96) / 3)
    assert figures["difference"]["computed prompt tokens a turn"]["mean"] == pytest.approx(-64 / 3)
    assert figures["difference"]["computed prompt tokens a turn, share"]["mean"] == pytest.approx(54 / 118 - 1)
    assert figures["difference"]["changes of checkpoint a conversation"]["mean"] == -2
    assert figures["arms"]["kept"]["accuracy"]["mean"] == pytest.approx(2 / 3)


def test_only_turns_and_conversations_that_both_arms_have_are_compared() -> None:
    longer = replace(BY_TURN, prompt=[*BY_TURN.prompt, 900], cached=[*BY_TURN.cached, 0], right=[True] * 3 + [False])
    alone = replace(KEPT, number=1)
    assert results([KEPT, longer, alone])["turns"] == 3
    assert results([KEPT, longer, alone])["difference"]["prompt tokens a turn"]["mean"] == 0


def test_what_is_finished_is_not_held_again_and_a_torn_line_is(tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    assert len(left_of(2, records)) == 4
    records.write_text('{"number": 0, "arm": "kept", "again": true, "prompt": [], "cached": [], "reasoning": [],'
                       ' "right": [], "checkpoints": [], "moves": []}\n{"number": 0, "ar')  # fmt: skip
    assert [record.number for record in read(records)] == [0]
    assert left_of(2, records) == [(0, ARMS[1]), (1, ARMS[0]), (1, ARMS[1])]
