"""How generator processes end: stopped, broken before they began, or left by their parent."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

from lockstep_load import worker
from lockstep_load.driver import Driver
from lockstep_load.generators import Generators
from lockstep_load.lengths import parse
from lockstep_load.outcome import RequestOutcome
from lockstep_load.plan import (
    Closed,
    LoadProfile,
    Offline,
    Open,
    Pace,
    Target,
    WorkerJob,
    Workload,
    worker_jobs,
)
from lockstep_load.requests import PreparedRequest, pool
from lockstep_load.worker_messages import RecordLog, WorkerDone, WorkerFailed, WorkerReady

if TYPE_CHECKING:
    import pytest


def job(pace: Pace, tls: str = "", seconds: float = 10.0) -> WorkerJob:
    lengths = parse("3")
    assert lengths is not None
    load = LoadProfile(pace, seconds, warmup_s=0.0)
    (made,) = worker_jobs(Target("localhost:1", "m", tls=tls), Workload("classify", lengths), load)
    return made


async def test_a_closed_loop_that_is_refused_is_stopped_without_ado() -> None:
    """A caller that was refused pauses, and is cancelled in its pause."""
    refused = asyncio.Event()

    async def ask(request: PreparedRequest, reading: Any) -> None:
        refused.set()
        raise RuntimeError("refused")

    asked, log = job(Closed(2)), RecordLog()
    driver = Driver(asked, ask, pool(asked), log, time.perf_counter())
    running = asyncio.create_task(driver.run())
    await refused.wait()
    driver.stop()
    await running
    assert {code for *_, code in log.records} == {RequestOutcome.FAILED}


async def test_samples_for_which_there_was_no_time_are_not_forgotten() -> None:
    async def ask(request: PreparedRequest, reading: Any) -> None:
        await asyncio.sleep(0.05)

    asked = job(Offline(samples=50, concurrency=1), seconds=0.2)
    driver = Driver(asked, ask, pool(asked), log := RecordLog(), time.perf_counter())
    await driver.run()
    assert 0 < len(log.records) == 50 - driver.unsent


async def test_a_process_whose_parent_is_gone_before_the_start_sees_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "CONNECT_S", 0.01)
    inbox: asyncio.Queue[Any] = asyncio.Queue()
    inbox.put_nowait(None)
    told: list[Any] = []
    await worker.work(job(Open(10.0)), inbox, told.append)
    assert [type(one) for one in told] == [WorkerReady, WorkerDone]
    assert inbox.get_nowait() is None


def test_a_process_that_cannot_begin_is_told_and_not_waited_for() -> None:
    told: list[Any] = []
    with Generators(1) as generators:
        asked = [job(Open(10.0), tls="/there/is/none.pem")]
        run = threading.Thread(
            target=generators.run, args=(asked, told.append, lambda: None, lambda: False), daemon=True
        )
        run.start()
        run.join(30.0)
        assert not run.is_alive()
    (broken,) = told
    assert isinstance(broken, WorkerFailed)
    assert "none.pem" in broken.why
