"""On which machine, and on which commit, was something measured?"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_CPUINFO = Path("/proc/cpuinfo")
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
"""The instruction sets that torch, vLLM and a Rust or C JSON parser choose their code by."""
_TRADEMARK = re.compile(r"\((?:r|tm|c)\)|®|™", re.IGNORECASE)


def describe() -> dict[str, Any]:
    """CPU, instruction sets, cores, the load of the last minute, commit and date; call it before the measurement."""
    facts = _cpuinfo(_CPUINFO.read_text()) if _CPUINFO.exists() else {}
    flags = facts.get("flags", "").split()
    return {
        "cpu": facts.get("model name") or platform.processor() or platform.machine(),
        "instruction sets": [name for name in _INSTRUCTIONS if name in flags],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load before": round(os.getloadavg()[0], 2),
        "commit": _commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def kind(described: Mapping[str, Any]) -> str:
    """What tells machines apart whose figures must not be compared: CPU model and cores, as the name of a file."""
    words = re.findall(r"[a-z0-9.]+", _TRADEMARK.sub(" ", str(described["cpu"])).lower())
    newest = (described["instruction sets"] or ["none"])[-1].replace("_", "")
    return "-".join([*words, newest, f"{described['cores']}cores"])


def _cpuinfo(text: str) -> dict[str, str]:
    """The fields of the first processor."""
    lines = text.split("\n\n", 1)[0].splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _commit() -> str | None:
    """The commit that is checked out, with `+` if tracked files differ from it; None outside of a repository."""
    root = Path(__file__).parent
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--abbrev=7", "--exclude=*"],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return described.stdout.strip() or None
