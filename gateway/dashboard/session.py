"""Who looks at the dashboard? A cookie that proves, for some hours, that its browser was shown an admin's key. No I/O.

    token = MAC . expiry . key's name,   MAC = HMAC-SHA256(key's stored hash, "laconic dashboard" . expiry . name)

It is not the key, and nothing is derived from it that opens anything else. All gateways of one Redis accept it, and
none once the key is revoked. Whoever can read the stored hashes could forge one; they can read the ledger as well, and
a dashboard shows no more (decision 67).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from gateway import errors
from gateway.access.keys import Key

COOKIE = "laconic_dashboard"
PATH = "/dashboard"
"""Browsers send the cookie to nothing else."""
SECONDS = 8 * 3600
_TOKEN = re.compile(r"([0-9a-f]{64})\.([0-9]{1,12})\.([A-Za-z0-9._-]{1,64})")


def issue(key: Key, now: float) -> str:
    """A token for a key, from `now` (Unix seconds) on."""
    expiry = int(now) + SECONDS
    return f"{_mac(key, expiry)}.{expiry}.{key.name}"


def key_of(token: str, keys: Iterable[Key], now: float) -> Key | None:
    """The admin's key that a token was issued for; None if it is forged or too old, or the key is gone."""
    match = _TOKEN.fullmatch(token)
    if match is None or int(match[2]) <= now:
        return None
    for key in keys:
        if key.name == match[3] and key.admin and hmac.compare_digest(_mac(key, int(match[2])), match[1]):
            return key
    return None


def check_same_origin(headers: Headers) -> None:
    """Check that a request with a cookie, or for one, comes from the dashboard's own pages, or from no page.

    Raises:
        ApiError: 403, another page sent it.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:  # no page can set it, and a proxy that changes the `Host` does not matter
        own = site in ("same-origin", "none")
    else:
        own = origin is None or urlsplit(origin).netloc == headers.get("host")
    if not own:
        raise errors.foreign("The dashboard answers its own pages only.", "Origin")


def _mac(key: Key, expiry: int) -> str:
    message = f"laconic dashboard.{expiry}.{key.name}"
    return hmac.new(key.sha256.encode(), message.encode(), hashlib.sha256).hexdigest()
