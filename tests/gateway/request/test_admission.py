"""How are slots shared by the keys?"""

from __future__ import annotations

import random

import hypothesis
import pytest
from hypothesis import strategies as st

from gateway.errors import ApiError
from gateway.request.admission import SHARE, Admission, Shares, Tenant

A, B = Tenant("a", shares=True), Tenant("b", shares=True)
CAPACITIES = st.integers(min_value=1, max_value=600)


def fill(shares: Shares, tenant: Tenant) -> int:
    """Take slots until the tenant gets no more; how many it holds then."""
    while shares.take(tenant):
        pass
    return shares.held(tenant)


@hypothesis.given(CAPACITIES, st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 100), st.booleans()), max_size=300))
def test_what_is_held_adds_up_and_never_exceeds_the_capacity(capacity: int, steps: list[tuple[int, int, bool]]) -> None:
    shares = Shares(capacity)
    held: dict[str, list[int]] = {}
    for number, amount, alone in steps:
        tenant = Tenant(str(number), shares=not alone)
        if amount > 0 and shares.take(tenant, amount):
            held.setdefault(tenant.name, []).append(amount)
        elif amount < 0 and held.get(tenant.name):
            shares.give_back(tenant, held[tenant.name].pop())
        assert shares.used == sum(map(sum, held.values())) <= capacity
        assert shares.held(tenant) == sum(held.get(tenant.name, []))


@hypothesis.given(CAPACITIES)
def test_one_tenant_of_several_gets_seven_eighths(capacity: int) -> None:
    share = capacity * SHARE / (SHARE + 1)
    assert share - 1 <= fill(Shares(capacity), A) <= share + 1


@hypothesis.given(CAPACITIES)
def test_the_only_tenant_gets_everything(capacity: int) -> None:
    assert fill(Shares(capacity), Tenant("")) == capacity


@hypothesis.given(st.integers(min_value=2, max_value=600))
def test_a_newcomer_finds_a_slot_whatever_one_tenant_holds(capacity: int) -> None:
    shares = Shares(capacity)
    fill(shares, A)
    assert shares.take(B)


@hypothesis.given(CAPACITIES, st.integers(min_value=2, max_value=40))
def test_tenants_that_all_want_everything_get_the_same(capacity: int, number: int) -> None:
    shares, tenants = Shares(capacity), [Tenant(str(one), shares=True) for one in range(number)]
    while sum(map(shares.take, tenants)):
        pass
    held = [shares.held(tenant) for tenant in tenants]
    assert max(held) - min(held) <= 1


@pytest.mark.parametrize("capacity", [16, 64, 256])
def test_a_newcomer_gets_its_part_as_slots_become_free(capacity: int) -> None:
    """One tenant held everything that it could get; both want all they can get, and requests end one by one."""
    shares, chance = Shares(capacity), random.Random(0)
    fill(shares, A)
    for _ in range(20 * capacity):
        fill(shares, B)
        ends = chance.choice([A] * shares.held(A) + [B] * shares.held(B))
        shares.give_back(ends)
        fill(shares, A)
    assert abs(shares.held(A) - shares.held(B)) <= capacity / 4 + 2


def test_a_keys_own_limit() -> None:
    admission, limited = Admission(10), Tenant("a", max_concurrency=2)
    admission.enter(limited)
    admission.enter(limited)
    with pytest.raises(ApiError) as refused:
        admission.enter(limited)
    assert (refused.value.status, refused.value.code, refused.value.retry_after) == (429, "concurrency_exceeded", 1)
    admission.leave(limited)
    admission.enter(limited)


def test_memory_for_parsed_bodies_is_bounded() -> None:
    admission, tenant = Admission(10), Tenant("a")
    admission.enter(tenant, 300 * 2**20)
    with pytest.raises(ApiError):
        admission.enter(tenant, 300 * 2**20)
    assert admission.in_flight == 1
    admission.leave(tenant, 300 * 2**20)
    admission.enter(tenant, 300 * 2**20)


def test_pressure_grows_from_half_of_the_slots() -> None:
    admission, tenant = Admission(4), Tenant("")
    pressures = [admission.pressure]
    for _ in range(4):
        admission.enter(tenant)
        pressures.append(admission.pressure)
    assert pressures == [0, 0, 0, 0.5, 1]
    with pytest.raises(ApiError, match="limit of concurrent requests"):
        admission.enter(tenant)
