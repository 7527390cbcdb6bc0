from __future__ import annotations

import pytest

from benchmarks import counted


def test_every_clock_that_is_stopped_exists_and_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in counted._CLOCKS:
        monkeypatch.setattr(module, name, getattr(module, name))  # so that the test restores it
    counted.stop_clocks()
    assert {getattr(module, name) for module, name in counted._CLOCKS} == {3600.0}


def test_the_decision_that_is_counted_is_one_of_the_shipped_profile() -> None:
    decide = counted.decide()
    decide("What is 12 + 35 - 8?")
