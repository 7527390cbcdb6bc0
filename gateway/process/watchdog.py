"""How does a child process end with its parent, however that ends?

    python -m gateway.process.watchdog GRACE_SECONDS DESCRIPTORS COMMAND...

The keeper runs COMMAND in a session of its own, and its own standard input is a pipe from the parent. When the pipe
closes, which the kernel does even for a parent that was killed, the command's whole process group is asked to end, and
killed GRACE_SECONDS later: vLLM has children of its own, and none may stay. When the command ends by itself, so do its
children. The keeper exits as the command did. DESCRIPTORS, comma-separated and perhaps none, are open files that the
command gets. Standard library only, to start in no time.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Run the command named by `sys.argv` until it or the parent ends."""
    grace_seconds, command = float(sys.argv[1]), sys.argv[3:]
    descriptors = [int(number) for number in sys.argv[2].split(",") if number]
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the pipe alone says when to stop
        signal.signal(ignored, signal.SIG_IGN)
    # No thread has been started yet, so running code between fork and exec is safe.
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        pass_fds=descriptors,
        start_new_session=True,
        preexec_fn=_in_child,  # noqa: PLW1509
    )
    threading.Thread(target=_end_with_parent, args=(child.pid, grace_seconds), daemon=True).start()
    code = child.wait()
    _end(child.pid, grace_seconds)
    return code if code >= 0 else 128 - code


def _in_child() -> None:
    """Between fork and exec: die with the keeper, too, and take signals as any program does."""
    with contextlib.suppress(OSError, AttributeError):  # Linux only; elsewhere a killed keeper leaves its child
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_DFL)


def _end_with_parent(group: int, grace_seconds: float) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    _end(group, grace_seconds)


def _end(group: int, grace_seconds: float) -> None:
    """Ask the process group to end, and kill what is left of it after the grace."""
    deadline = time.monotonic() + grace_seconds
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)
        while time.monotonic() < deadline:
            time.sleep(0.05)
            os.killpg(group, 0)
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
