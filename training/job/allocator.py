"""How does freed memory stay at hand? glibc gives big blocks back at once, and every step would fetch them again.

A training step's tensors are tens of megabytes; mapped anew each time, their pages are zeroed and faulted in again,
which took a fifth of a step on two CPU cores. Kept, they are reused.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> None:
    """For the rest of this process, glibc keeps what is freed; without glibc nothing changes."""
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, 2**28)
