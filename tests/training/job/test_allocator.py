"""Is freed memory kept between steps, and given back when a stage ends? Measured as resident memory of a process."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import json
import psutil
from training.job.allocator import give_back_freed_memory, keep_freed_memory

def resident():
    return psutil.Process().memory_info().rss // 2**20

keep_freed_memory()
import torch
before = resident()
blocks = [torch.ones(64 * 2**20 // 4) for _ in range(8)]
used = resident()
del blocks
kept = resident()
give_back_freed_memory()
print(json.dumps([value - before for value in (used, kept, resident())]))
"""


def test_freed_memory_is_kept_until_it_is_given_back() -> None:
    printed = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    used, kept, given_back = json.loads(printed)
    assert used > 500
    assert kept > 500
    assert given_back < 100
