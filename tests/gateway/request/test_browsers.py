"""Which requests may a web page send?"""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies as st
from starlette.datastructures import Headers

from gateway.errors import ApiError
from gateway.request import browsers

PAGE = "https://app.example.com"


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8080", "LOCALHOST", "app.localhost:1", "127.0.0.1", "127.0.0.1:8080", "127.9.8.7", "[::1]",
     "[::1]:8080", "localhost:"],
)  # fmt: skip
def test_names_of_this_machine(host: str) -> None:
    assert browsers.is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1.evil.example", "", "x", "evil.example", "localhost.evil.example", "evillocalhost",
     "localhost@evil.example",
     "127.0.0.1@evil.example:80", "localhost:80:80", "localhost:x", "localhost/x", "0.0.0.0", "[::]", "10.0.0.1", "::1",
     "[127.0.0.1]", "localhost ", " localhost", "localhost,evil.example", "localhost\t", "2130706433", "0x7f.1", "[::1",
     "127.0.0.1:80\n", "localhost#", "localhost?", "localhost\\", "localhost:\uff11"],
)  # fmt: skip
def test_names_of_other_machines(host: str) -> None:
    assert not browsers.is_loopback(host)


@hypothesis.given(st.text(max_size=60))
def test_any_text_is_a_name_or_not(text: str) -> None:
    if browsers.is_loopback(text):
        assert text.lower().startswith(("127.", "[::1]", "localhost")) or ".localhost" in text.lower()


def refused(method: str = "POST", **headers: str) -> int | None:
    """The status with which a gateway without keys refuses a request, or None."""
    given = {"host": "localhost:8080", "content_length": "9", "content_type": "application/json", **headers}
    present = {name.replace("_", "-"): value for name, value in given.items() if value}
    try:
        browsers.check(method, Headers(present), {PAGE})
    except ApiError as error:
        return error.status
    return None


def test_a_request_of_no_page_or_a_loopback_page_is_answered() -> None:
    assert refused() is None
    for page in ("http://localhost:3000", "https://127.0.0.1", "http://[::1]:5173", PAGE):
        assert refused(origin=page) is None
    assert refused("GET", content_type="", content_length="") is None
    assert refused(content_type="", content_length="0") is None
    assert refused(sec_fetch_site="same-origin") is None


def test_a_foreign_page_is_refused() -> None:
    for page in (
        "https://evil.example", "null", "file://", "chrome-extension://localhost", "localhost", "https://",
        "http://localhost@evil.example", "http://localhost.evil.example", "https://app.example.com.evil.example",
    ):  # fmt: skip
        assert refused(origin=page) == 403
        assert refused("GET", origin=page) == 403
    for host in ("", "evil.example", "evil.example:8080"):
        assert refused(host=host) == 403
    assert refused("GET", sec_fetch_site="cross-site", sec_fetch_mode="no-cors") == 403
    assert refused("GET", sec_fetch_site="cross-site", sec_fetch_mode="navigate") is None


def test_two_hosts_are_none() -> None:
    with pytest.raises(ApiError):
        browsers.check("GET", Headers(raw=[(b"host", b"localhost"), (b"host", b"evil.example")]), ())


@pytest.mark.parametrize(
    ("declared", "status"),
    [
        ("application/json", None),
        ("Application/JSON; charset=utf-8", None),
        ("application/problem+json", None),
        ("text/plain", 415),
        ("text/plain; application/json", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=application/json", 415),
        ("application/jsonp", 415),
        ("application/json, text/plain", 415),
        ("", 415),
    ],
)
def test_a_body_must_be_declared_as_json(declared: str, status: int | None) -> None:
    assert refused(content_type=declared) == status
    assert refused(content_type=declared, content_length="", transfer_encoding="chunked") == status


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://app.example.com", "https://app.example.com"),
        ("https://App.Example.com/", "https://app.example.com"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:80", "http://[::1]"),
    ],
)
def test_an_origin_is_written_as_browsers_do(text: str, origin: str) -> None:
    assert browsers.validate_origin(text) == origin


@pytest.mark.parametrize(
    "text",
    ["*", "", "app.example.com", "ftp://a", "https://a/b", "https://a?b", "https://a#b", "https://u@a", "https://",
     "https://a:x", "https://a:99999", "https://ä", "null", "https://*.a"],
)  # fmt: skip
def test_what_is_no_origin_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="is not an origin"):
        browsers.validate_origin(text)


def test_a_preflight_allows_what_is_asked_if_it_is_on_the_list() -> None:
    asked = Headers(
        {
            "origin": PAGE,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization, X-Stainless-Lang,x-evil",
        }
    )
    response = browsers.preflight("OPTIONS", asked, {PAGE})
    assert response is not None
    assert response.status_code == 204
    assert response.headers["access-control-allow-headers"] == "authorization, x-stainless-lang"
    assert "POST" in response.headers["access-control-allow-methods"]
    assert browsers.preflight("POST", asked, {PAGE}) is None
    assert browsers.preflight("OPTIONS", asked, {"https://another.example"}) is None
    assert browsers.preflight("OPTIONS", Headers({"origin": PAGE}), {PAGE}) is None


def test_only_a_listed_page_may_read() -> None:
    assert browsers.cors_headers(Headers({"origin": PAGE}), ()) == []
    assert browsers.cors_headers(Headers({"origin": "https://evil.example"}), {PAGE}) == [(b"vary", b"origin")]
    assert (b"access-control-allow-origin", PAGE.encode()) in browsers.cors_headers(Headers({"origin": PAGE}), {PAGE})
