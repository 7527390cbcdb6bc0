"""How many instructions do a decision and a request take, and is that more than what is committed?

    make count                                  # fails if one takes a tenth more than committed for this Python
    python -m benchmarks.instructions --write   # commits what they take now

Time differs from run to run by more than a change does; instructions hardly differ at all. valgrind counts them
(`--tool=callgrind`), in this process' code only: kernel, Redis and engine do not count. What runs is in
`benchmarks.counted`. Counts differ by Python version, so each version has its own. It takes one to two minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks import machine
from benchmarks.counted import DECISIONS, REPEATED, SEED, WARM
from benchmarks.peers import create_key, redis_server, upstream_server
from training.tasks.prompts import prompts

COMMITTED = Path(__file__).parent / "results" / "instructions.json"
ALLOWED = 0.1
"""How much more than committed is no failure."""
SECONDS = 900
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
_MARKS = """
#include <valgrind/callgrind.h>
void start(void) { CALLGRIND_START_INSTRUMENTATION; CALLGRIND_ZERO_STATS; }
void stop(const char *name) { CALLGRIND_STOP_INSTRUMENTATION; CALLGRIND_DUMP_STATS_AT(name); }
"""
"""The requests to valgrind that begin and end a count; they are macros of its header."""
_DUMP = re.compile(
    r"^desc: Trigger: Client Request: (?P<name>[^\n]+)\n.*?^totals: (?P<count>\d+)", re.DOTALL | re.MULTILINE
)


class CannotCountError(RuntimeError):
    """What runs under valgrind failed; the message says what it printed."""


class MissingToolError(CannotCountError):
    """valgrind or the C compiler is missing; the message says what to do."""


def main() -> None:
    """Count, and compare with what is committed or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the counts of this Python version")
    write = parser.parse_args().write
    measured_on = machine.describe()
    try:
        counts = count()
    except MissingToolError as error:
        if write:
            sys.exit(f"instructions: {error}")
        print(f"instructions: nothing was counted: {error}")
        return
    except CannotCountError as error:
        sys.exit(f"instructions: {error}")
    committed = json.loads(COMMITTED.read_text()) if COMMITTED.exists() else {}
    for name, number in counts.items():
        print(f"{name}: {number:,} instructions")
    if write:
        committed[VERSION] = {"machine": measured_on, "instructions": counts}
        COMMITTED.write_text(json.dumps(dict(sorted(committed.items())), indent=1) + "\n")
    elif VERSION not in committed:
        print(f"instructions: none are committed for Python {VERSION}: python -m benchmarks.instructions --write")
    elif more := list(grown(committed[VERSION]["instructions"], counts)):
        sys.exit("\n".join(more))


def count() -> dict[str, int]:
    """Instructions of one decision, one streamed and one non-streaming request.

    Raises:
        MissingToolError: valgrind or a C compiler is missing.
        CannotCountError: what runs under valgrind failed.
    """
    if missing := [name for name in ("valgrind", "cc") if shutil.which(name) is None]:
        raise MissingToolError(f"{missing[0]} is not installed (Debian: apt-get install valgrind gcc libc6-dev)")
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        marks, questions, dumps = (directory / name for name in ("marks.so", "questions.json", "dump"))
        _run(["cc", "-shared", "-fPIC", "-o", str(marks), "-xc", "-"], text=_MARKS)
        questions.write_text(json.dumps([one.prompt for one in prompts("heldout", SEED, DECISIONS + WARM)]))
        with upstream_server(directory) as upstream, redis_server(directory) as redis:
            key, engine = create_key(redis, "count"), upstream.url.removesuffix("/v1")
            # Counting is switched on by the marks only: otherwise imports would take most of the time.
            tool = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={dumps}"]
            counted = [sys.executable, "-m", "benchmarks.counted", str(marks), str(questions), redis, engine, key]
            _run([*tool, *counted, str(directory / "state")])
        totals = dict(read_dump(file.read_text(errors="replace")) for file in directory.glob("dump.*"))
    return {name: round(totals[name] / times) for name, times in REPEATED.items()}


def read_dump(text: str) -> tuple[str, int]:
    """A mark's name, and the instructions up to it, from what callgrind wrote."""
    found = _DUMP.search(text)
    if found is None:
        raise CannotCountError("callgrind's output has no total")
    return found["name"], int(found["count"])


def grown(committed: Mapping[str, int], counts: Mapping[str, int]) -> Iterator[str]:
    """A line for each count that is above the committed one by more than what is allowed."""
    for name, number in counts.items():
        more = number / committed[name] - 1
        if more > ALLOWED:
            yield (
                f"{name}: {number:,} instructions, {more:.0%} more than the {committed[name]:,} that are committed."
                " Mend it, or say in the commit why it is worth that: python -m benchmarks.instructions --write"
            )


def _run(command: list[str], text: str | None = None) -> None:
    settled = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        command, input=text, env={**os.environ, **settled}, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    if done.returncode:
        raise CannotCountError(f"{command[0]} failed:\n{done.stderr[-4000:]}")


if __name__ == "__main__":
    main()
