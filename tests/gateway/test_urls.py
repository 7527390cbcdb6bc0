"""A URL has one of the schemes and a usable place, and no message shows its password."""

from __future__ import annotations

import pytest

from gateway.urls import checked_url, redact_url


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


def test_credentials_are_left_out() -> None:
    assert redact_url("redis://user:secret@host:6379/0") == "redis://host:6379/0"
    assert redact_url("redis://host") == "redis://host"
