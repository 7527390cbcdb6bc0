"""Is this the URL of an engine, a server or an exporter, and how is it shown without its password?"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from redis.asyncio import ConnectionPool

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_END_OF_PLACE = re.compile(r"[/?#]|$")
ENCODE = "; percent-encode the password, such as %2F for /"


def redact_url(url: str) -> str:
    """A URL without its user name and password, for messages. Not much is left of one that cannot be taken apart.

    A password that is not percent-encoded may have any character. If an @ follows what ends the place, nobody knows
    where the password is. A query may have one, too.
    """
    scheme = match[0] if (match := _SCHEME.match(url)) else ""
    rest = url.removeprefix(scheme)
    end = _END_OF_PLACE.search(rest)
    assert end is not None
    place, more = rest[: end.start()], rest[end.start() :]
    if "@" in more:
        return f"{scheme}***"
    return f"{scheme}{place.rpartition('@')[2]}" + re.sub(r"([?#]).+", r"\1***", more, flags=re.DOTALL)


def checked_url(url: str, schemes: tuple[str, ...]) -> str:
    """The URL.

    Raises:
        ValueError: it is none of these schemes, without its password.
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in schemes and bool(parts.netloc or parts.scheme == "unix") and parts.port != 0
    except ValueError:  # the port is not a number, or a bracket is missing
        usable = False
    if not usable:
        prefixes = " or ".join(f"{scheme}://" for scheme in schemes)
        raise ValueError(f"{redact_url(url)!r} is not a URL that starts with {prefixes}{_advice(url)}")
    return url


def checked_redis_url(url: str) -> str:
    """The URL of a Redis.

    Raises:
        ValueError: it is none, without its password.
    """
    parts = urlsplit(checked_url(url, ("redis", "rediss", "unix")))
    if parts.scheme != "unix":
        if not re.fullmatch(r"(/[0-9]*)?", parts.path):
            raise ValueError(f"{redact_url(url)!r}: the path is not a database number such as /0{_advice(url)}")
        if parts.fragment or "@" in parts.query.partition("=")[0]:  # else what is before it would be the host
            raise ValueError(f"{redact_url(url)!r}: only options such as ?db=0 may follow the path{_advice(url)}")
    try:
        # This does not connect.
        ConnectionPool.from_url(url).make_connection()  # pyright: ignore[reportUnknownMemberType]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{redact_url(url)!r} cannot be used: {error}") from None
    return url


def _advice(url: str) -> str:
    return ENCODE if "@" in url else ""
