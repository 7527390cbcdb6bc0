"""A URL has one of the schemes and a usable place, and no message shows its password."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.urls import ENCODE, checked_redis_url, checked_url, redact_url


@pytest.mark.parametrize("url", ["http://host", "https://user:secret@host:8000/path", "unix:///run/redis.sock"])
def test_a_good_url_is_returned(url: str) -> None:
    assert checked_url(url, ("http", "https", "unix")) == url


@pytest.mark.parametrize(
    "url",
    ["host:8000", "ftp://user:secret@host", "http://", "http://user:secret@host:port", "http://user:secret@host:0"],
)
def test_a_bad_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="is not a URL that starts with http:// or https://") as refused:
        checked_url(url, ("http", "https"))
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:12/secret@host:6379/0",
        "redis://:12/34@host",
        "redis://user:secret#1@host/0",
        "redis://user:12#secret@host/0",
        "redis://user:12?secret@host/0",
        "redis://user:se[cret@host/0",
        "redis://user:se@cret/secret@host/0",
        "redis://user:secret\u2100@host/0",  # urllib refuses some characters, and quotes them
    ],
)
def test_a_password_that_is_not_encoded_is_refused_with_advice_and_not_shown(url: str) -> None:
    with pytest.raises(ValueError, match="percent-encode the password") as refused:
        checked_redis_url(url)
    assert "cret" not in str(refused.value)
    assert "34" not in str(refused.value)


def test_a_password_in_the_query_is_not_shown() -> None:
    with pytest.raises(ValueError, match="'colour'") as refused:
        checked_redis_url("redis://host:6379/0?password=sec@ret&colour=red")
    assert "ret" not in str(refused.value)
    with pytest.raises(ValueError, match="database number") as refused:
        checked_redis_url("redis://host:6379/zero?password=secret")
    assert "'redis://host:6379/zero?***'" in str(refused.value)
    assert ENCODE not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:12%2F%23%3F%40@host:6379/0",
        "redis://host?password=p@ss&db=1",
        "rediss://host",
        "unix:///run/redis.sock?db=1",
        "unix://user:secret@/run/redis.sock",
    ],
)
def test_a_good_url_of_a_redis_is_returned(url: str) -> None:
    assert checked_redis_url(url) == url


ODD = "/?#@:[]&=%ab\u2100"
places = st.from_regex(r"[a-z]{1,8}(:[0-9]{1,5})?", fullmatch=True)
rest = st.from_regex(r"(/[a-z0-9]{0,5})?(\?[a-z]=[a-z@0-9]{0,5})?", fullmatch=True)


@given(places, rest, st.text(ODD, max_size=9), st.sampled_from(["redis://", "https://", "unix://", ""]))
@example("host", "", "//", "")
def test_no_password_is_shown_whatever_is_in_it(place: str, rest: str, odd: str, scheme: str) -> None:
    for password in (f"SE{odd}CRET", f"{odd}SECRET", f"SECRET{odd}"):
        shown = redact_url(f"{scheme}user:{password}@{place}{rest}")
        shown += redact_url(f"{scheme}{place}{rest}{'&' if '?' in rest else '?'}password={password}")
        assert "SE" not in shown
        assert "CRET" not in shown


def test_credentials_are_left_out() -> None:
    assert redact_url("redis://user:secret@host:6379/0") == "redis://host:6379/0"
    assert redact_url("redis://host") == "redis://host"
