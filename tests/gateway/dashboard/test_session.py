"""Does a session open the dashboard to whom it was given, for as long as that, and to nobody else?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from gateway.access.keys import Key
from gateway.dashboard import session
from gateway.errors import ApiError

NOW = 1_800_000_000.0


def key(name: str = "operator", secret: str = "a", *, admin: bool = True) -> Key:
    return Key(name=name, admin=admin, sha256=secret * 64, hint="wxyz", created=1.0)


def test_a_session_is_its_keys_until_it_ends() -> None:
    token = session.issue(key(), NOW)
    assert session.key_of(token, [key("other"), key()], NOW + session.SECONDS - 1) == key()
    assert session.key_of(token, [key()], NOW + session.SECONDS + 1) is None


def test_a_session_ends_with_its_key() -> None:
    token = session.issue(key(), NOW)
    assert session.key_of(token, [], NOW) is None
    assert session.key_of(token, [key(secret="b")], NOW) is None, "a new key with the old name"
    assert session.key_of(token, [key(admin=False)], NOW) is None


def test_a_session_cannot_be_made_longer_or_anothers() -> None:
    mac, expiry, name = session.issue(key(), NOW).split(".")
    twin = key("twin")  # with the same hash, which does not happen
    assert session.key_of(f"{mac}.{int(expiry) + 1}.{name}", [key()], NOW) is None
    assert session.key_of(f"{mac}.{expiry}.twin", [twin], NOW) is None
    assert session.key_of(f"{mac}.{expiry}.{name}", [key()], NOW) == key()


def test_a_session_does_not_contain_the_key() -> None:
    assert key().sha256 not in session.issue(key(), NOW)


@given(st.integers(0, 75), st.characters())
def test_no_other_token_is_a_session(place: int, character: str) -> None:
    token = session.issue(key(), NOW)
    other = token[:place] + character + token[place + 1 :]
    assert (session.key_of(other, [key()], NOW) is not None) == (other == token)


@given(st.text())
def test_any_text_can_be_looked_at(token: str) -> None:
    assert session.key_of(token, [key()], NOW) is None


@pytest.mark.parametrize(
    "sent",
    [
        {"host": "a:1"},
        {"host": "a:1", "origin": "http://a:1"},
        {"host": "a:1", "sec-fetch-site": "same-origin"},
        {"host": "behind-a-proxy", "origin": "https://a", "sec-fetch-site": "same-origin"},
        {"host": "a:1", "sec-fetch-site": "none"},
    ],
)
def test_the_dashboards_own_pages_and_programs_may_ask(sent: dict[str, str]) -> None:
    session.check_same_origin(Headers(sent))


@pytest.mark.parametrize(
    "sent",
    [
        {"host": "a:1", "origin": "http://b:1"},
        {"host": "a:1", "origin": "http://a:2"},
        {"host": "a:1", "origin": "null"},
        {"host": "a:1", "sec-fetch-site": "cross-site"},
        {"host": "a:1", "sec-fetch-site": "same-site"},
        {"host": "a:1", "origin": "http://a:1", "sec-fetch-site": "cross-site"},
    ],
)
def test_other_pages_may_not(sent: dict[str, str]) -> None:
    with pytest.raises(ApiError) as refused:
        session.check_same_origin(Headers(sent))
    assert refused.value.status == 403
