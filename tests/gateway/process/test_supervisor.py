"""Are child processes started, restarted and stopped as they should be?"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import psutil
import pytest
import uvloop

from gateway.process.supervisor import ChildProcess, Program, StartError


def program(directory: Path, code: str) -> Program:
    """A Python program that is ready once it has written its process id to a file."""
    directory.mkdir(exist_ok=True)
    pid = directory / "pid"

    async def is_ready() -> bool:
        return pid.exists()

    return Program(
        name="the program",
        command=[sys.executable, "-c", code, str(pid)],
        log_path=directory / "logs" / "program.log",
        is_ready=is_ready,
        hint="Try this.",
    )


RUN = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(600)"


async def test_start_returns_when_the_program_is_ready_and_stop_when_it_has_ended(tmp_path: Path) -> None:
    child = ChildProcess(program(tmp_path, RUN))
    await child.start()
    process = psutil.Process(int((tmp_path / "pid").read_text()))
    assert process.is_running()
    await child.stop()
    assert not process.is_running()


async def test_a_program_that_dies_is_restarted(tmp_path: Path) -> None:
    child = ChildProcess(program(tmp_path, RUN))
    await child.start()
    first = int((tmp_path / "pid").read_text())
    psutil.Process(first).kill()
    while (second := int((tmp_path / "pid").read_text() or first)) == first:
        await asyncio.sleep(0.02)
    assert psutil.Process(second).is_running()
    await child.stop()
    assert not psutil.pid_exists(second)


def test_a_program_that_is_down_can_be_told_to_reload_and_those_beside_it_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In uvloop, which serves: writing to a program that has ended raises there."""
    told = "import os, pathlib, signal, sys, time; "
    told += "signal.signal(signal.SIGHUP, lambda *_: pathlib.Path(sys.argv[1] + '.told').touch()); "
    told += RUN.removeprefix("import os, pathlib, sys, time; ")

    async def reload_both() -> None:
        down, up = (ChildProcess(program(tmp_path / name, told)) for name in ("down", "up"))
        try:
            for child in (down, up):
                await child.start()
            psutil.Process(int((tmp_path / "down" / "pid").read_text())).kill()
            while "restarting it" not in caplog.text:
                await asyncio.sleep(0.02)
            for child in (down, up):
                child.hang_up()
            while not (tmp_path / "up" / "pid.told").exists():
                await asyncio.sleep(0.02)
        finally:
            await asyncio.gather(down.stop(), up.stop())

    uvloop.run(reload_both())


async def test_a_program_that_cannot_be_restarted_for_a_while_is_restarted_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Here its log cannot be opened. And the gateway could stop meanwhile."""
    child = ChildProcess(program(tmp_path, RUN))
    await child.start()
    first = int((tmp_path / "pid").read_text())
    child.program.log_path.unlink()
    child.program.log_path.mkdir()
    psutil.Process(first).kill()
    while "could not be started (Is a directory)" not in caplog.text:
        await asyncio.sleep(0.02)
    child.program.log_path.rmdir()
    while (second := int((tmp_path / "pid").read_text() or first)) == first:
        await asyncio.sleep(0.02)
    await child.stop()
    assert not psutil.pid_exists(second)


async def test_a_program_that_exits_at_start_raises_with_its_last_log_lines_and_a_hint(tmp_path: Path) -> None:
    child = ChildProcess(program(tmp_path, "import sys; print('some line'); sys.exit('no memory left')"))
    with pytest.raises(StartError) as failed:
        await child.start()
    await child.stop()
    message = str(failed.value)
    assert "the program did not start (exit code 1)" in message
    assert "  some line\n  no memory left\n" in message or "  no memory left\n  some line\n" in message
    assert message.endswith("Try this.")


async def test_a_cancelled_start_leaves_no_process_behind(tmp_path: Path) -> None:
    child = ChildProcess(program(tmp_path, "import time; time.sleep(600)"))
    before = set(psutil.Process().children(recursive=True))
    starting = asyncio.create_task(child.start())
    while not (running := set(psutil.Process().children(recursive=True)) - before):
        await asyncio.sleep(0.02)
    starting.cancel()
    await child.stop()
    assert not [process for process in running if process.is_running()]


async def test_the_log_of_the_previous_run_is_kept(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "program.log").write_text("from yesterday")
    child = ChildProcess(program(tmp_path, RUN))
    await child.start()
    await child.stop()
    assert (tmp_path / "logs" / "program.previous.log").read_text() == "from yesterday"


async def test_a_log_may_be_cut_while_its_program_runs_as_logrotate_does_with_copytruncate(tmp_path: Path) -> None:
    lines = RUN.replace("time.sleep(600)", "[(print('a line', flush=True), time.sleep(0.01)) for _ in iter(int, 1)]")
    child = ChildProcess(program(tmp_path, lines))
    await child.start()
    log = child.program.log_path
    for _ in range(2):
        while log.stat().st_size < 100:
            await asyncio.sleep(0.02)
        assert log.read_bytes().startswith(b"a line\n")
        os.truncate(log, 0)
    await child.stop()
