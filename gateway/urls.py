"""Is this the URL of an engine, a server or an exporter, and how is it shown without its password?"""

from __future__ import annotations

from urllib.parse import urlsplit


def redact_url(url: str) -> str:
    """A URL without its user name and password, for messages."""
    credentials, at, _ = urlsplit(url).netloc.rpartition("@")
    return url.replace(f"{credentials}{at}", "", 1)


def checked_url(url: str, schemes: tuple[str, ...]) -> str:
    """The URL.

    Raises:
        ValueError: it is none of these schemes, without its password.
    """
    parts = urlsplit(url)
    try:
        usable = parts.scheme in schemes and bool(parts.netloc or parts.scheme == "unix") and parts.port != 0
    except ValueError:  # the port is not a number
        usable = False
    if not usable:
        prefixes = " or ".join(f"{scheme}://" for scheme in schemes)
        raise ValueError(f"{redact_url(url)!r} is not a URL that starts with {prefixes}")
    return url
