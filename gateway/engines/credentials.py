"""What does an engine want with every request? Its key, more headers, and certificates that the gateway trusts.

Keys come from the environment (`LACONIC_ENGINE_KEY`, for all engines) or from a file, never from the command line,
which every user of the machine can read. A file has one key for all engines, or lines of an engine's URL and its key:

    http://gpu1:8000      sk-one
    https://gpu2:8443     sk-two

The file is read again when it has changed, so that a new key needs no restart. Nothing here is logged.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path

from models.files import MIB, read_bounded

log = logging.getLogger("laconic")

ENGINE_KEY = "LACONIC_ENGINE_KEY"


class CredentialsError(ValueError):
    """The key file cannot be used. The message is one line without any key."""


class Credentials:
    """What all engines want."""

    def __init__(
        self,
        *,
        key: str | None = None,
        key_file: Path | None = None,
        headers: Sequence[str] = (),
        ca: Path | None = None,
    ) -> None:
        """
        Args:
            key: the key of every engine that the file does not name.
            key_file: see above.
            headers: more headers, each as `NAME: VALUE`.
            ca: certificates of the authorities that sign the engines'; None for the system's.

        Raises:
            CredentialsError: the file cannot be read, or a line of it is neither a key nor a URL and a key.
        """
        self._key, self._file, self._ca = key, key_file, ca
        self._more = {name.strip(): value.strip() for name, _, value in (header.partition(":") for header in headers)}
        self._keys: Mapping[str, str] = {}
        self._read: tuple[int, int] | None = None
        """When the file was last changed, and its size, as it was read."""
        if key_file is not None:
            self._keys, self._read = _read(key_file), _stamp(key_file)

    def headers(self, url: str) -> dict[str, str]:
        """The headers for a request to the engine at this URL."""
        key = self._keys.get(url) or self._keys.get("") or self._key
        return self._more if key is None else {**self._more, "authorization": f"Bearer {key}"}

    def context(self) -> ssl.SSLContext:
        """How to trust an engine's certificate.

        Raises:
            OSError, ssl.SSLError: the certificates cannot be read.
        """
        return ssl.create_default_context(cafile=self._ca)

    def refresh(self) -> None:
        """Read the file again if it has changed. A file that cannot be used leaves the keys as they were."""
        if self._file is None or (stamp := _stamp(self._file)) == self._read:
            return
        self._read = stamp
        try:
            self._keys = _read(self._file)
        except CredentialsError as error:
            log.error("the keys of the engines stay as they were: %s", error)
        else:
            log.info("the keys of the engines were read again from %s", self._file)


def load(key_file: Path | None, headers: Sequence[str], ca: Path | None) -> Credentials:
    """The credentials from settings and environment.

    Raises:
        CredentialsError: as `Credentials` raises; or the certificates cannot be read.
    """
    credentials = Credentials(key=os.environ.get(ENGINE_KEY) or None, key_file=key_file, headers=headers, ca=ca)
    try:
        credentials.context()
    except (OSError, ssl.SSLError) as error:
        raise CredentialsError(f"engine_ca: {ca} has no certificates that can be read ({error.strerror})") from None
    return credentials


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _read(file: Path) -> dict[str, str]:
    """The keys by URL; that of the empty URL is everyone's."""
    try:
        text = read_bounded(file, MIB).decode()
    except OSError as error:
        raise CredentialsError(f"engine_key_file: cannot read {file} ({error.strerror})") from None
    except UnicodeDecodeError:
        raise CredentialsError(f"engine_key_file: {file} is not text") from None
    keys: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        url, key = ("", words[0]) if len(words) == 1 else (words[0].rstrip("/").removesuffix("/v1"), words[1])
        if len(words) > 2 or not key.isascii() or not key.isprintable() or (url and "://" not in url):
            raise CredentialsError(f"engine_key_file: {file}: line {number} is neither a key nor a URL and a key")
        keys[url] = key
    if not keys:
        raise CredentialsError(f"engine_key_file: {file} has no key in it")
    return keys
