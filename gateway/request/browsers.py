"""May a web page do this? What browsers send with a request, checked against who may call this gateway.

A gateway without keys trusts everything on its own machine. A browser there also runs the pages of strangers, so such a
gateway answers only requests that no foreign page can send: to a loopback `Host`, which defeats DNS rebinding, from no
page or a loopback one, and with bodies declared as JSON, which a page cannot send elsewhere without asking first.

With keys, a page needs one like any other caller. It may read the answers if the operator lists its origin
(`--cors-origin`).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response

from gateway import errors

ALLOWED_METHODS = "GET, POST, DELETE"
ALLOWED_HEADERS = frozenset(
    {
        "accept", "anthropic-beta", "anthropic-version", "authorization", "cache-control", "content-type",
        "idempotency-key", "openai-beta", "openai-organization", "openai-project", "traceparent", "tracestate",
        "user-agent", "x-api-key", "x-conversation-id", "x-laconic-debug", "x-reasoning-budget",
        "x-reasoning-budget-policy", "x-request-id", "x-session-id",
    }
)  # fmt: skip
"""What a page may send, besides the `x-stainless-*` headers of OpenAI's SDKs."""
EXPOSED_HEADERS = ", ".join(
    (
        "request-id", "retry-after",
        "x-laconic-alpha", "x-laconic-budget", "x-laconic-budget-hit", "x-laconic-checkpoint",
        "x-laconic-conversation", "x-laconic-decision", "x-laconic-difficulty", "x-laconic-escalation",
        "x-laconic-ignored", "x-laconic-predictions", "x-laconic-reason",
        "x-ratelimit-limit-requests", "x-ratelimit-limit-tokens", "x-ratelimit-remaining-requests",
        "x-ratelimit-remaining-tokens", "x-ratelimit-reset-requests", "x-ratelimit-reset-tokens", "x-request-id",
    )
)  # fmt: skip
PREFLIGHT_SECONDS = 600

_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[0-9]{0,5})?", re.IGNORECASE)
_JSON = re.compile(r"application/([a-z0-9.!#$&^_-]+\+)?json", re.IGNORECASE)
_CHECKED = frozenset(
    {
        b"content-length", b"content-type", b"host", b"origin", b"sec-fetch-mode", b"sec-fetch-site",
        b"transfer-encoding",
    }
)  # fmt: skip
_DEFAULT_PORTS = {"http": 80, "https": 443}


def check(method: str, headers: Headers, origins: Collection[str]) -> None:
    """Check that a request to a gateway without keys does not come from a foreign page.

    Raises:
        ApiError: 403, the `Host` or the `Origin` is foreign; 415, the body is not declared as JSON.
    """
    sent: dict[bytes, list[str]] = {}
    for name, value in headers.raw:  # once: every look-up of Starlette's would read them all
        if name in _CHECKED:
            sent.setdefault(name, []).append(value.decode("latin-1"))
    hosts = sent.get(b"host", [])
    if len(hosts) != 1 or not is_loopback(hosts[0]):
        raise errors.foreign(
            "Without keys, this gateway answers only requests to localhost or 127.0.0.1. Use such an address, or create"
            " a key with `laconic keys create NAME`.",
            "Host",
        )
    pages = sent.get(b"origin", [])
    if not all(page in origins or _is_loopback_origin(page) for page in pages):
        raise errors.foreign(
            "Without keys, this gateway answers no web page of another machine. Create a key with `laconic keys create"
            " NAME`, and allow the page with --cors-origin.",
            "Origin",
        )
    if not pages and sent.get(b"sec-fetch-site") == ["cross-site"] and sent.get(b"sec-fetch-mode") != ["navigate"]:
        raise errors.foreign("Without keys, this gateway answers no request that a foreign page makes.")
    has_body = sent.get(b"content-length", ["0"]) != ["0"] or b"transfer-encoding" in sent
    if method == "POST" and has_body and not _is_json(sent.get(b"content-type", [])):
        raise errors.not_json()


@lru_cache(maxsize=64)
def is_loopback(authority: str) -> bool:
    """Whether a `Host` header, or the host of an origin, names this machine: `localhost:8080`, `[::1]`."""
    if (match := _AUTHORITY.fullmatch(authority)) is None:
        return False
    host = match[1].lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return address.is_loopback and (address.version == 6) == host.startswith("[")


def cors_headers(headers: Headers, origins: Collection[str]) -> list[tuple[bytes, bytes]]:
    """What a response says to the browser about the page that asked. Nothing if no page may read answers."""
    if not origins:
        return []
    origin = headers.get("origin")
    if origin is None or origin not in origins:
        return [(b"vary", b"origin")]
    return [
        (b"vary", b"origin"),
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", EXPOSED_HEADERS.encode()),
    ]


def preflight(method: str, headers: Headers, origins: Collection[str]) -> Response | None:
    """The response to a browser that asks what a page may send; None if the request is no such question.

    It needs no key, because browsers send none with it.
    """
    asked = headers.get("access-control-request-method")
    if method != "OPTIONS" or asked is None or headers.get("origin") not in origins:
        return None
    names = [name.strip().lower() for name in headers.get("access-control-request-headers", "").split(",")]
    allowed = [name for name in names if name in ALLOWED_HEADERS or re.fullmatch(r"x-stainless-[a-z-]{1,64}", name)]
    answer = {
        "access-control-allow-methods": ALLOWED_METHODS,
        "access-control-max-age": str(PREFLIGHT_SECONDS),
        "vary": "access-control-request-method, access-control-request-headers",
    }
    if allowed:
        answer["access-control-allow-headers"] = ", ".join(allowed)
    return Response(None, 204, answer)


def validate_origin(text: str) -> str:
    """The origin as browsers write it: a validator for configuration.

    Raises:
        ValueError: it is not an origin such as `https://app.example.com`.
    """
    try:
        parts = urlsplit(text)
        host, port = parts.netloc.lower(), parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    rest = (parts.path.rstrip("/"), parts.query, parts.fragment)
    if parts.scheme not in _DEFAULT_PORTS or not _AUTHORITY.fullmatch(host) or any(rest):
        raise ValueError(f"{text!r} is not an origin such as https://app.example.com or http://localhost:3000")
    if port is None or port == _DEFAULT_PORTS[parts.scheme]:
        host = _AUTHORITY.sub(r"\1", host)
    return f"{parts.scheme}://{host}"


def _is_loopback_origin(origin: str) -> bool:
    scheme, separator, host = origin.partition("://")
    return bool(separator) and scheme in _DEFAULT_PORTS and is_loopback(host)


def _is_json(types: list[str]) -> bool:
    return bool(types) and all(_JSON.fullmatch(kind.partition(";")[0].strip()) for kind in types)
