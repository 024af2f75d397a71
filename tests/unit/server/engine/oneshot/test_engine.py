"""Concurrent runs on one session: as many as the model has instances and the device has leases."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from patience import PATIENCE_S, wait_until
from unit.server import sample_models

from lockstep_server import messages
from lockstep_server.engine.oneshot.engine import OneShotEngine
from lockstep_server.engine.runtime.device_scheduler import DeviceScheduler
from lockstep_server.errors import ErrorCode
from lockstep_server.model.cost_model import CostModel
from lockstep_server.model.spec import measure_request

if TYPE_CHECKING:
    from collections.abc import Callable


class MeetingSession:
    """A session whose runs wait until `runs` of them are concurrent, or for `patience_s`."""

    output_names = ("y",)

    def __init__(self, runs: int, patience_s: float) -> None:
        self._barrier = threading.Barrier(runs)
        self._patience_s = patience_s
        self.met = 0

    def run(self, inputs: Any, outputs: Any = None) -> list[Any]:
        try:
            self._barrier.wait(self._patience_s)
            self.met += 1
        except threading.BrokenBarrierError:
            pass
        return [inputs["x"]]

    def terminate(self) -> None: ...


def serve(
    session: Any, instances: int, device_scheduler: DeviceScheduler, requests: int, niceness: int = 1
) -> list[messages.Events]:
    """The reports of an unbatched model for requests submitted together."""
    spec = replace(sample_models.plain(), batched=False, instances=instances)
    reports: list[messages.Events] = []
    answered = threading.Semaphore(0)

    def report(update: messages.EngineUpdate) -> None:
        if not isinstance(update, messages.Events):  # learned costs
            return
        reports.append(update)
        answered.release()

    engine = OneShotEngine(spec, session, CostModel(), device_scheduler, report, niceness=niceness)
    x = np.ones((1, 2), np.float32)
    size = measure_request(spec, {"x": x})
    engine.submit([sample_models.infer(key, size, inputs={"x": x}) for key in range(requests)])
    engine.start()
    for _ in range(requests):
        assert answered.acquire(timeout=PATIENCE_S)
    engine.stop(PATIENCE_S)
    return reports


def test_unbatched_requests_run_concurrently() -> None:
    """They are put into the queue at once, which wakes one thread: each thread must wake the next."""
    session = MeetingSession(3, PATIENCE_S)
    reports = serve(session, 3, DeviceScheduler(3), 3)
    assert session.met == 3
    assert sorted(event.key for events in reports for event in events.events) == [0, 1, 2]


@pytest.mark.parametrize(("instances", "leases", "niceness"), [(1, 3, 1), (3, 1, 1), (3, 2, 0)])
def test_instances_and_leases_limit_concurrent_runs(instances: int, leases: int, niceness: int) -> None:
    session = MeetingSession(2, 0.05)
    reports = serve(session, instances, DeviceScheduler(leases), 3, niceness)
    assert session.met == 0
    assert len(reports) == 3


class CallingThread:
    """A session that notes the thread of each run, and fails with `error` if there is one."""

    output_names = ("y",)

    def __init__(self, error: BaseException | None = None) -> None:
        self.threads: list[int] = []
        self._error = error

    def run(self, inputs: Any, outputs: Any = None) -> list[Any]:
        self.threads.append(threading.get_ident())
        if self._error:
            raise self._error
        return [inputs["x"]]

    def terminate(self) -> None: ...


class LoneRequest:
    """An engine, and one request submitted to it by a thread that may make the run."""

    def __init__(
        self,
        session: CallingThread,
        *,
        costs: CostModel | None = None,
        start: bool = True,
    ) -> None:
        self.events: list[messages.Event] = []
        self.answered = threading.Event()
        spec = replace(sample_models.plain(), batched=False)
        self.engine = OneShotEngine(spec, session, costs or CostModel(), DeviceScheduler(1), self._report)  # type: ignore[arg-type]
        if start:
            self.engine.start()
            wait_until(lambda: self.engine._queue.is_idle(1), "the engine's thread waits")
        self.run = self.submit(1)

    def submit(self, key: int) -> Callable[[], None] | None:
        inputs = {"x": np.ones((1, 2), np.float32)}
        size = measure_request(self.engine.spec, inputs)
        return self.engine.submit([sample_models.infer(key, size, inputs=inputs)], may_run=True)

    def _report(self, update: messages.EngineUpdate) -> None:
        if isinstance(update, messages.Events):
            self.events += update.events
            self.answered.set()


def test_a_lone_request_runs_on_the_thread_that_received_it() -> None:
    lone = LoneRequest(session := CallingThread())
    assert lone.run is not None
    lone.run()
    lone.engine.stop(PATIENCE_S)
    assert session.threads == [threading.get_ident()]
    assert [event.error for event in lone.events] == [None]


@pytest.mark.parametrize("why", ["no thread is idle", "the run is long"])
def test_other_requests_run_on_the_engines_thread(why: str) -> None:
    long = CostModel((1.0, 0, 0, 0, 0)) if why == "the run is long" else None
    idle = why != "no thread is idle"
    lone = LoneRequest(session := CallingThread(), costs=long, start=idle)
    assert lone.run is None
    if not idle:
        lone.engine.start()
    assert lone.answered.wait(PATIENCE_S)
    lone.engine.stop(PATIENCE_S)
    assert threading.get_ident() not in session.threads
    assert [event.error for event in lone.events] == [None]


def test_a_second_request_runs_on_the_engines_thread_meanwhile() -> None:
    lone = LoneRequest(session := CallingThread())
    assert lone.run is not None
    assert lone.submit(2) is None
    assert lone.answered.wait(PATIENCE_S)
    assert threading.get_ident() not in session.threads
    lone.run()
    lone.engine.stop(PATIENCE_S)
    assert [(event.key, event.error) for event in lone.events] == [(2, None), (1, None)]


def test_a_library_that_panics_fails_the_request_and_not_the_thread() -> None:
    lone = LoneRequest(CallingThread(error=BaseException("panic")))
    assert lone.run is not None
    lone.run()
    lone.engine.stop(PATIENCE_S)
    (event,) = lone.events
    assert event.error is not None
    assert event.error.code is ErrorCode.FAILED


def test_a_stop_waits_for_the_run_on_the_other_thread() -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Held(CallingThread):
        def run(self, inputs: Any, outputs: Any = None) -> list[Any]:
            begun.set()
            assert go_on.wait(PATIENCE_S)
            return super().run(inputs, outputs)

    lone = LoneRequest(Held())
    assert lone.run is not None
    runner = threading.Thread(target=lone.run)
    runner.start()
    assert begun.wait(PATIENCE_S)
    stop = threading.Thread(target=lone.engine.stop, args=(PATIENCE_S,))
    stop.start()
    wait_until(lambda: lone.engine._queue.closed, "the stop has begun")
    go_on.set()
    stop.join(PATIENCE_S)
    assert [event.error for event in lone.events] == [None]
    runner.join(PATIENCE_S)
