from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

FAMILY = """
import pathlib, signal, subprocess, sys, time
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(sys.argv[1]).write_text(f"{__import__('os').getpid()} {child.pid}")
if "leave" in sys.argv:
    sys.exit(7)
time.sleep(600)
"""
"""A program with a child of its own; it writes both process ids into the file it is given."""


def keeper(pids: Path, *behaviour: str, grace_seconds: float = 5.0) -> list[str]:
    command = [sys.executable, "-c", FAMILY, str(pids), *behaviour]
    return [sys.executable, "-m", "gateway.process.watchdog", str(grace_seconds), "", *command]


def family(pids: Path) -> list[psutil.Process]:
    """The program and its child, once both run."""
    while not (pids.exists() and pids.read_text()):
        time.sleep(0.02)
    return [psutil.Process(int(pid)) for pid in pids.read_text().split()]


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=20)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_closing_the_pipe_ends_the_program_and_its_children(tmp_path: Path) -> None:
    with subprocess.Popen(keeper(tmp_path / "pids"), stdin=subprocess.PIPE) as kept:
        processes = family(tmp_path / "pids")
    assert gone(processes)
    assert kept.returncode == 128 + signal.SIGTERM


def test_a_program_that_ignores_the_request_is_killed_after_the_grace(tmp_path: Path) -> None:
    with subprocess.Popen(keeper(tmp_path / "pids", "stubborn", grace_seconds=0.2), stdin=subprocess.PIPE) as kept:
        processes = family(tmp_path / "pids")
    assert gone(processes)
    assert kept.returncode == 128 + signal.SIGKILL


def test_a_killed_parent_leaves_nothing_behind(tmp_path: Path) -> None:
    start = f"subprocess.Popen({keeper(tmp_path / 'pids')!r}, stdin=subprocess.PIPE)"
    started = f"import subprocess, time; child = {start}; time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", started]) as parent:
        processes = family(tmp_path / "pids")
        parent.kill()
    assert gone(processes)


def test_a_program_that_ends_takes_its_children_along_and_its_code_is_kept(tmp_path: Path) -> None:
    with subprocess.Popen(keeper(tmp_path / "pids", "leave"), stdin=subprocess.PIPE) as kept:
        assert kept.wait() == 7
    child = int((tmp_path / "pids").read_text().split()[1])
    assert not psutil.pid_exists(child) or gone([psutil.Process(child)])


def test_the_terminals_signals_are_for_the_parent_alone(tmp_path: Path) -> None:
    with subprocess.Popen(keeper(tmp_path / "pids"), stdin=subprocess.PIPE) as kept:
        processes = family(tmp_path / "pids")
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            kept.send_signal(one)
        time.sleep(0.1)
        assert kept.poll() is None
        assert all(process.is_running() for process in processes)
