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

from models import endpoint
from models.endpoint import ENGINE_KEY, EndpointError

log = logging.getLogger("laconic")


class CredentialsError(ValueError):
    """The credentials cannot be used. The message is one line that names the setting, without any key."""


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
            CredentialsError: the file cannot be read, or a line of it is neither a key nor a URL and a key; or a header
                is none.
        """
        self._key, self._file, self._ca = key, key_file, ca
        try:
            self._more = endpoint.headers(headers)
        except EndpointError as error:
            raise CredentialsError(f"engine_header: {error}") from None
        self._keys: Mapping[str, str] = {}
        self._read: tuple[int, int] | None = None
        """When the file was last changed, and its size, as it was read."""
        self.version = 0
        """How often the keys were read again."""
        if key_file is not None:
            self._keys, self._read = _read(key_file), _stamp(key_file)

    def headers(self, url: str) -> dict[str, str]:
        """The headers for a request to the engine at this URL."""
        return endpoint.with_key(self._more, endpoint.key_for(url, self._keys, self._key))

    def source(self, url: str) -> str | None:
        """Where the engine's key comes from, in words; None if it has no key."""
        if self._keys.get(url) or self._keys.get(""):
            return f"in {self._file}"
        if self._key is not None:
            return f"in {ENGINE_KEY}"
        return "in --engine-header" if endpoint.AUTHORIZATION in map(str.lower, self._more) else None

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
            self.version += 1
            log.info("the keys of the engines were read again from %s", self._file)


def load(key_file: Path | None, headers: Sequence[str], ca: Path | None) -> Credentials:
    """The credentials from settings and environment.

    Raises:
        CredentialsError: as `Credentials` raises; or the key in the environment or the certificates cannot be used.
    """
    try:
        key = endpoint.default_key(os.environ)
    except EndpointError as error:
        raise CredentialsError(str(error)) from None
    credentials = Credentials(key=key, key_file=key_file, headers=headers, ca=ca)
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
    try:
        return endpoint.read_keys(file)
    except EndpointError as error:
        raise CredentialsError(f"engine_key_file: {error}") from None
