"""Whose is the state directory, and who may read it? One `laconic serve` at a time, and its user alone.

It has the hashes of keys and an entry for each request, so it and everything in it is 0700 or 0600. What an
earlier version left open to others is closed with a line in the log. What belongs to another user, or is a symbolic or
hard link that somebody planted, is refused: the gateway would write where others want it to.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import stat
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from gateway.config import ConfigError, Settings
from models.field import one_line

log = logging.getLogger(__name__)

LOCK_SECONDS = 15.0
PRIVATE_UMASK = 0o077
_DIRECTORIES = ("logs", "redis", "workers")
_OURS = (*_DIRECTORIES, "lock", "redis.sock", "keys.*", "ledger.spool*", "limits.*")
"""What the gateway keeps in the directory. Anything else there is left alone: the directory may be somebody's home."""


@contextmanager
def locked(settings: Settings) -> Generator[IO[str]]:
    """Make the state directory private and lock it, until this process and its last child process have ended.

    Raises:
        ConfigError: it cannot be used, is not this user's alone, or another `laconic serve` uses it.
    """
    os.umask(PRIVATE_UMASK)  # for child processes, too: Redis writes its files here
    directory = settings.state_dir
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        make_private(directory)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        lock = os.fdopen(os.open(directory / "lock", flags, 0o600), "a+")
    except OSError as error:
        raise ConfigError(f"state_dir: cannot use {directory} ({error.strerror})") from None
    with lock:
        # A killed gateway may still be stopping its child processes, and its workers finish their requests.
        deadline = time.monotonic() + settings.drain_seconds + LOCK_SECONDS
        while not _try_lock(lock):
            lock.seek(0)
            process_id = one_line(lock.read(20))
            if time.monotonic() > deadline or _is_running(process_id):
                raise ConfigError(
                    f"state_dir: {directory} is in use by another laconic (process {process_id});"
                    " stop that one, or pass another --state-dir"
                )
            time.sleep(0.1)
        with contextlib.suppress(OSError):  # on a full disk, messages cannot name this process
            os.ftruncate(lock.fileno(), 0)
            os.write(lock.fileno(), str(os.getpid()).encode())
        yield lock


def make_private(directory: Path) -> None:
    """Take away what others may do with the directory and what the gateway keeps there.

    Raises:
        ConfigError: something belongs to another user, or is a link or a device.
        OSError: the directory cannot be read.
    """
    status = directory.stat()
    if status.st_uid != os.geteuid():
        raise ConfigError(
            f"state_dir: {directory} belongs to another user (uid {status.st_uid}); name a directory of your own,"
            " such as a new one inside it"
        )
    opened = [directory] if _tighten(directory, status) else []
    for name in _OURS:
        for path in directory.glob(name):
            opened += [one for one in _inside(path) if _check(one, directory)]
    if opened:
        log.warning(
            "the state directory was open to other users: %d files are private now, the first is %s",
            len(opened), one_line(str(opened[0])),
        )  # fmt: skip


def _inside(path: Path) -> Iterator[Path]:
    """The path, and everything below it. No link is followed."""
    paths = [path]
    while paths:
        yield (path := paths.pop())
        if not path.is_symlink() and path.is_dir():
            paths += path.iterdir()


def _check(path: Path, directory: Path) -> bool:
    """Refuse what is not ours, and return whether others had access to it."""
    try:
        status = path.lstat()
    except FileNotFoundError:  # another process has just removed it
        return False
    name = one_line(str(path.relative_to(directory)))
    if status.st_uid != os.geteuid():
        raise ConfigError(f"state_dir: {name} in {directory} belongs to another user (uid {status.st_uid})")
    if stat.S_ISLNK(status.st_mode):
        raise ConfigError(f"state_dir: {name} in {directory} is a symbolic link, which the gateway does not follow")
    if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
        raise ConfigError(f"state_dir: {name} in {directory} has a second name, a hard link; remove one of the two")
    if name in _DIRECTORIES and not stat.S_ISDIR(status.st_mode):
        raise ConfigError(f"state_dir: {name} in {directory} is not a directory")
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode) or stat.S_ISSOCK(status.st_mode)):
        raise ConfigError(f"state_dir: {name} in {directory} is neither a file nor a directory")
    return _tighten(path, status)


def _tighten(path: Path, status: os.stat_result) -> bool:
    mode = stat.S_IMODE(status.st_mode)
    if not mode & PRIVATE_UMASK:
        return False
    with contextlib.suppress(FileNotFoundError):
        path.chmod(mode & ~PRIVATE_UMASK)
    return True


def _is_running(process_id: str) -> bool:
    try:
        os.kill(int(process_id), 0)
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    except PermissionError:
        pass  # it runs as another user
    return True


def _try_lock(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
