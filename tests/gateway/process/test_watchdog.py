"""Does the watchdog stop its command in every case?"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

PROGRAM = """
import pathlib, signal, subprocess, sys, time
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(sys.argv[1]).write_text(f"{__import__('os').getpid()} {child.pid}")
if "exit" in sys.argv:
    sys.exit(7)
time.sleep(600)
"""
"""A program with a child process. It writes both process ids to the file that it is given."""


def watchdog_command(pids: Path, *behaviour: str, grace_seconds: float = 5.0) -> list[str]:
    command = [sys.executable, "-c", PROGRAM, str(pids), *behaviour]
    return [sys.executable, "-m", "gateway.process.watchdog", str(grace_seconds), "", *command]


def processes_of(pids: Path) -> list[psutil.Process]:
    """The program and its child process, once both run."""
    while not (pids.exists() and pids.read_text()):
        time.sleep(0.02)
    return [psutil.Process(int(pid)) for pid in pids.read_text().split()]


def all_ended(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=20)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def test_closing_the_pipe_stops_the_program_and_its_child_processes(tmp_path: Path) -> None:
    with subprocess.Popen(watchdog_command(tmp_path / "pids"), stdin=subprocess.PIPE) as watchdog:
        processes = processes_of(tmp_path / "pids")
    assert all_ended(processes)
    assert watchdog.returncode == 128 + signal.SIGTERM


def test_a_program_that_ignores_sigterm_is_killed_after_the_grace_period(tmp_path: Path) -> None:
    with subprocess.Popen(
        watchdog_command(tmp_path / "pids", "stubborn", grace_seconds=0.2), stdin=subprocess.PIPE
    ) as watchdog:
        processes = processes_of(tmp_path / "pids")
    assert all_ended(processes)
    assert watchdog.returncode == 128 + signal.SIGKILL


def test_a_killed_parent_leaves_no_process_behind(tmp_path: Path) -> None:
    popen = f"subprocess.Popen({watchdog_command(tmp_path / 'pids')!r}, stdin=subprocess.PIPE)"
    code = f"import subprocess, time; watchdog = {popen}; time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        processes = processes_of(tmp_path / "pids")
        parent.kill()
    assert all_ended(processes)


def test_when_the_program_exits_its_child_processes_are_stopped_and_its_exit_code_is_returned(tmp_path: Path) -> None:
    with subprocess.Popen(watchdog_command(tmp_path / "pids", "exit"), stdin=subprocess.PIPE) as watchdog:
        assert watchdog.wait() == 7
    child = int((tmp_path / "pids").read_text().split()[1])
    assert not psutil.pid_exists(child) or all_ended([psutil.Process(child)])


def test_the_watchdog_ignores_signals_from_the_terminal(tmp_path: Path) -> None:
    with subprocess.Popen(watchdog_command(tmp_path / "pids"), stdin=subprocess.PIPE) as watchdog:
        processes = processes_of(tmp_path / "pids")
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            watchdog.send_signal(one)
        time.sleep(0.1)
        assert watchdog.poll() is None
        assert all(process.is_running() for process in processes)
