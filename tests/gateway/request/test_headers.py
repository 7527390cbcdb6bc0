"""Are a request's headers those that Starlette finds?"""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from gateway.request.headers import IndexedHeaders

RAW = [(b"host", b"gateway"), (b"x-a", b"1"), (b"x-b", "\xe4".encode("latin-1")), (b"x-a", b"2")]


@pytest.fixture
def both() -> tuple[Headers, Headers]:
    return Headers(raw=RAW), IndexedHeaders({"headers": RAW})


@pytest.mark.parametrize("name", ["host", "Host", "x-a", "X-A", "x-b", "x-c", "X-C", ""])
def test_every_lookup_finds_the_same(both: tuple[Headers, Headers], name: str) -> None:
    theirs, ours = both
    assert ours.get(name) == theirs.get(name)
    assert ours.get(name, "none") == theirs.get(name, "none")
    assert ours.getlist(name) == theirs.getlist(name)
    assert (name in ours) == (name in theirs)


def test_the_raw_headers_are_as_they_came(both: tuple[Headers, Headers]) -> None:
    assert both[0] == both[1]
    assert both[1].raw == RAW
    with pytest.raises(KeyError):
        both[1]["x-c"]
