"""How is freed memory reused between steps? By settings of glibc, which otherwise returns large blocks at once.

The tensors of a training step are tens of megabytes. If they are mapped again each time, the kernel zeroes their pages
and the process faults them in, which took a fifth of a step on two CPU cores.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the rest of this process; does nothing with another C library."""
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, 2**28)
