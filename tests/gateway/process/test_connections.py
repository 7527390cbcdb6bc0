"""Which connection is closed if there are too many?"""

from __future__ import annotations

import resource

import hypothesis
import pytest
from hypothesis import strategies as st

from gateway.process import connections
from gateway.process.connections import Connections, address_of, connections_allowed, raise_descriptor_limit


class Fake:
    """A connection that remembers whether it was closed."""

    def __init__(self) -> None:
        self.evicted = False

    def evict(self) -> None:
        self.evicted = True


def opened(table: Connections, number: int, address: str = "a") -> list[Fake]:
    made = [Fake() for _ in range(number)]
    for one in made:
        assert table.open(one, address)
    return made


def test_the_longest_waiting_connection_makes_room() -> None:
    table = Connections(10, 3)
    first, second, third = opened(table, 3)
    table.works(first)
    opened(table, 1)
    assert (first.evicted, second.evicted, third.evicted) == (False, True, False)


def test_one_that_never_sent_a_request_goes_before_one_that_did() -> None:
    table = Connections(10, 2)
    used, silent = opened(table, 2)
    table.works(used)
    table.waits(used)
    opened(table, 1)
    assert (used.evicted, silent.evicted) == (False, True)
    table.works(opened(table, 1)[0])
    opened(table, 1)
    assert used.evicted


def test_one_whose_caller_does_not_read_goes_last() -> None:
    table = Connections(10, 3)
    slow, idle, working = opened(table, 3)
    for one in (slow, idle, working):
        table.works(one)
    table.waits(idle)
    table.stalls(slow)
    opened(table, 1)
    assert (slow.evicted, idle.evicted) == (False, True)
    table.works(opened(table, 1)[0])  # the one that was silent has gone, and this one has a request
    opened_again = Fake()
    assert table.open(opened_again, "a")
    assert slow.evicted
    assert not working.evicted
    table.works(opened_again)
    table.stalls(working)
    table.flows(working)
    assert not table.open(Fake(), "a")


def test_nobody_goes_while_all_work() -> None:
    table = Connections(10, 2)
    for one in opened(table, 2):
        table.works(one)
    assert not table.open(Fake(), "a")
    assert table.open(Fake(), "b")
    assert len(table) == 3


def test_all_addresses_together_are_bounded() -> None:
    table = Connections(3, 3)
    (first,) = opened(table, 1, "a")
    opened(table, 2, "b")
    opened(table, 1, "c")
    assert first.evicted
    assert len(table) == 3


STEPS = st.lists(st.tuples(st.sampled_from(["open", "works", "waits", "closed"]), st.integers(0, 30)), max_size=200)


@hypothesis.given(STEPS, st.integers(1, 8), st.integers(1, 8))
def test_the_bounds_hold_and_what_works_stays(steps: list[tuple[str, int]], most: int, most_per_address: int) -> None:
    table = Connections(most, most_per_address)
    alive: dict[int, Fake] = {}
    working: set[int] = set()
    for action, number in steps:
        one = alive.get(number)
        if action == "open" and one is None:
            new = Fake()
            if table.open(new, str(number % 3)):
                alive[number] = new
            else:
                same = {other for other in alive if other % 3 == number % 3}
                assert len(same) >= most_per_address or len(alive) >= most
                assert same <= working or set(alive) <= working
        elif action == "closed" and one is not None:
            table.closed(alive.pop(number))
            working.discard(number)
        elif action != "open" and one is not None:
            getattr(table, action)(one)
            (working.add if action == "works" else working.discard)(number)
        for gone in [other for other, connection in alive.items() if connection.evicted]:
            assert gone not in working
            del alive[gone]
        assert len(table) == len(alive) <= most
        for rest in range(3):
            assert sum(other % 3 == rest for other in alive) <= most_per_address
    for connection in alive.values():
        table.closed(connection)
        table.closed(connection)
    assert len(table) == 0


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::9", "2001:db8:1:2::"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::"),
    ],
)
def test_a_host_is_one_address(peer: str, address: str) -> None:
    assert address_of((peer, 1)) == address


def test_a_peer_without_an_address_has_one_all_the_same() -> None:
    assert address_of(None) == ""
    assert address_of(("pipe", 0)) == "pipe"


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "allowed"),
    [
        (256, 256, 256, 64),
        (1024, 1024, 1024, 1024 - 576),
        (1024, 1_000_000, 4096 + 576, 4096),
        (1024, resource.RLIM_INFINITY, 4096 + 576, 4096),
        (1_000_000, 1_000_000, 1_000_000, 4096),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, resource.RLIM_INFINITY, 4096),
    ],
)
def test_descriptors_are_left_for_engines(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, raised: int, allowed: int
) -> None:
    limits = [(soft, hard)]
    monkeypatch.setattr(connections.resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(connections.resource, "setrlimit", lambda _, new: limits.append(new))
    raise_descriptor_limit(4096, 256)
    assert limits[-1] == (raised, hard)
    assert connections_allowed(4096, 256) == allowed
