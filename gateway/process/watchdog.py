"""How does a child process end with its parent, however the parent ends?

    python -m gateway.process.watchdog GRACE_SECONDS DESCRIPTORS COMMAND...

The watchdog runs COMMAND in a session of its own. Its standard input is a pipe from the parent. When the pipe closes,
which the kernel does even if the parent was killed, the watchdog sends SIGTERM to the command's whole process group,
and SIGKILL after GRACE_SECONDS. The group matters because vLLM has child processes of its own, and none may be left.
When the command ends by itself, the rest of its group is stopped, too. The watchdog exits with the command's exit code.
A byte in the pipe is passed on to the command as SIGHUP. DESCRIPTORS is a comma-separated list, possibly empty, of open
files that the command inherits.

The watchdog uses only the standard library, so that it starts fast.
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
    """Run the command in `sys.argv` until it or the parent ends, and return its exit code."""
    grace_seconds, command = float(sys.argv[1]), sys.argv[3:]
    descriptors = [int(number) for number in sys.argv[2].split(",") if number]
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # only the pipe says when to stop
        signal.signal(ignored, signal.SIG_IGN)
    # No thread has been started yet, so running code between fork and exec is safe.
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        pass_fds=descriptors,
        start_new_session=True,
        preexec_fn=_before_exec,  # noqa: PLW1509
    )
    threading.Thread(target=_stop_with_parent, args=(child.pid, grace_seconds), daemon=True).start()
    code = child.wait()
    _stop_group(child.pid, grace_seconds)
    return code if code >= 0 else 128 - code


def _before_exec() -> None:
    """Between fork and exec: make the command end with the watchdog, and restore the default signal handlers."""
    with contextlib.suppress(OSError, AttributeError):  # Linux only; elsewhere a killed watchdog leaves it running
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    for ignored in (signal.SIGINT, signal.SIGTERM):  # SIGHUP stays ignored until the command handles it
        signal.signal(ignored, signal.SIG_DFL)


def _stop_with_parent(group: int, grace_seconds: float) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        with contextlib.suppress(ProcessLookupError):
            os.kill(group, signal.SIGHUP)
    _stop_group(group, grace_seconds)


def _stop_group(group: int, grace_seconds: float) -> None:
    """Send SIGTERM to a process group, and SIGKILL to what is left of it after `grace_seconds`."""
    deadline = time.monotonic() + grace_seconds
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)
        while time.monotonic() < deadline:
            time.sleep(0.05)
            os.killpg(group, 0)
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
