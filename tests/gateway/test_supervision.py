"""Does a background task go on after a fault, and does the gateway stop whatever state its tasks are in?"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway import supervision
from gateway.access.limits import Limiter
from gateway.supervision import BackgroundTask, guard
from tests.conftest import RedisServer
from tests.gateway.access.test_limits import redis_state
from tests.gateway.fakes import FakeEngine, Gateway, running, until
from tests.gateway.hostile.harness import impatient_gateway


@pytest.fixture(autouse=True)
def clean_slate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "faults", {})
    monkeypatch.setattr(supervision, "_logged", set())
    monkeypatch.setattr(supervision, "FIRST_PAUSE_SECONDS", 0.01)


class Failing:
    """Work that fails for the first `times`, and then goes on until it is cancelled."""

    def __init__(self, times: int, error: BaseException | None = None) -> None:
        self.times, self.runs = times, 0
        self.error = error or RuntimeError("my secret prompt")

    async def run(self) -> None:
        self.runs += 1
        if self.runs <= self.times:
            raise self.error
        await asyncio.Event().wait()


async def test_a_task_goes_on_after_faults_which_are_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    work = Failing(3)
    task = BackgroundTask("work", work.run)
    await until(lambda: work.runs == 4)
    await task.stop()
    assert supervision.faults == {"work": 3}
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "work failed with RuntimeError" in record.getMessage()
    assert "in run" in record.getMessage()  # the place in the code
    assert "secret" not in caplog.text


async def test_the_pause_between_faults_grows_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "LONGEST_PAUSE_SECONDS", 0.04)
    pauses: list[float] = []
    wait_for = asyncio.wait_for

    async def note(work: object, pause: float) -> object:
        pauses.append(pause)
        return await wait_for(work, pause)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(asyncio, "wait_for", note)
    work = Failing(5)
    task = BackgroundTask("work", work.run)
    await until(lambda: work.runs == 6)
    await task.stop()
    assert pauses == [0.01, 0.02, 0.04, 0.04, 0.04]


async def test_a_task_goes_on_if_what_it_waits_for_is_cancelled() -> None:
    work = Failing(1, asyncio.CancelledError())
    task = BackgroundTask("work", work.run)
    await until(lambda: work.runs == 2)
    await task.stop()
    assert supervision.faults == {"work": 1}


async def test_a_task_that_fails_while_it_is_stopped_does_not_fail_the_stop() -> None:
    async def fail_when_cancelled() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError

    task = BackgroundTask("work", fail_when_cancelled)
    await asyncio.sleep(0)
    await asyncio.wait_for(task.stop(), 5)


async def test_a_task_that_loses_a_cancellation_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "CANCEL_AGAIN_SECONDS", 0.01)
    cancelled = 0

    async def lose_the_first() -> None:  # as `asyncio.wait_for` may, before Python 3.12
        nonlocal cancelled
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled += 1
                if cancelled > 1:
                    raise

    task = BackgroundTask("work", lose_the_first)
    await asyncio.sleep(0)
    await asyncio.wait_for(task.stop(), 5)
    assert task._task.done()
    assert cancelled == 2


async def test_a_task_that_ignores_being_cancelled_does_not_hold_up_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "STOP_SECONDS", 0.05)
    ends = asyncio.Event()

    async def ignore() -> None:
        while not ends.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await ends.wait()

    task = BackgroundTask("work", ignore)
    await asyncio.sleep(0)
    await asyncio.wait_for(task.stop(), 5)
    ends.set()


async def test_finishing_runs_a_task_that_has_just_failed_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without waiting for the end of its pause, and without a second attempt."""
    monkeypatch.setattr(supervision, "FIRST_PAUSE_SECONDS", 3600.0)
    work = Failing(10)
    task = BackgroundTask("work", work.run)
    await until(lambda: work.runs == 1)
    await asyncio.wait_for(task.finish(), 5)
    assert work.runs == 2


async def test_a_guarded_call_that_is_cancelled_stays_cancelled() -> None:
    call = asyncio.create_task(guard("work", asyncio.Event().wait()))  # pyright: ignore[reportArgumentType]
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert supervision.faults == {}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.engines.probes.PROBE_SECONDS", 0.02)
    monkeypatch.setattr("gateway.access.keyring.REFRESH_SECONDS", 0.02)
    monkeypatch.setattr("gateway.observe.metrics.REFRESH_SECONDS", 0.02)


TASKS = {
    "probe": "gateway.engines.probes.Probes._probe",
    "load adapters": "gateway.engines.adapters.Loader.load",
    "keys": "gateway.access.keyring.Keyring._try_refresh",
    "ledger": "gateway.ledger.ledger.Ledger._drain",
    "gauges": "gateway.observe.metrics.Metrics._refresh",
}


@pytest.mark.parametrize("task", TASKS)
async def test_every_task_of_the_gateway_survives_a_fault(
    gateway: Gateway, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    with monkeypatch.context() as broken:

        def fail(*_: object) -> None:
            raise LookupError("a bug")

        async def fail_later(*_: object) -> None:
            fail()

        broken.setattr(TASKS[task], fail if task == "gauges" else fail_later)
        broken.setattr("gateway.engines.adapters.Loader.wanted", lambda *_: ["alpha-0.1"])  # or nothing is loaded
        await gateway.ask()
        await until(lambda: supervision.faults.get(task, 0) >= 2)
    await gateway.entries(1)
    await gateway.ask()
    await gateway.entries(2)
    engine.serves.remove("abacus/alpha-0.1")
    await until(lambda: gateway.engines.missing == ["alpha-0.1"])
    text = (await gateway.client.get("/metrics")).text
    assert f'laconic_background_faults_total{{task="{task}"}}' in text


async def test_a_fault_of_the_limits_loses_no_settlement_and_holds_up_nobody(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.access.limits.RETRY_SECONDS", 0.02)
    call = Limiter._call

    async def fail_once(self: Limiter, ops: list[dict[str, Any]]) -> Any:
        if any(op["kind"] == "settle" for op in ops):
            monkeypatch.setattr(Limiter, "_call", call)
            raise LookupError("a bug")
        return await call(self, ops)

    async with impatient_gateway(family_dir, redis_server.url, engine.url, tmp_path) as gateway:
        monkeypatch.setattr(Limiter, "_call", fail_once)
        for _ in range(2):
            assert (await gateway.ask()).status_code == 200
        entries = await gateway.entries(2)
        spent = sum(entry.reasoning_tokens for entry in entries)
        await until(lambda: redis_state(redis_server)["day_tokens"] == spent)
    assert spent > 0
    assert supervision.faults == {"limits": 1}


async def test_a_service_that_fails_to_stop_does_not_keep_the_ledger_from_being_flushed(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(stop: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
        async def stop_and_fail(service: Any) -> None:
            await stop(service)
            raise LookupError("a bug")

        return stop_and_fail

    async with running(family_dir, redis_server.url, [engine.url], state_dir=tmp_path) as gateway:
        services = gateway.services
        for service in (services.metrics, services.engines, services.keyring, services.limiter):
            monkeypatch.setattr(type(service), "aclose", failing(type(service).aclose))
        assert (await gateway.ask()).status_code == 200
    assert services.ledger.pending == 0
    assert services.ledger._writer is None
    assert set(supervision.faults) == {"stop metrics", "stop engines", "stop keyring", "stop limiter"}
