"""The threads of an engine: failing steps, stopping within a time, and errors of runs."""

from __future__ import annotations

import gc
import queue
import threading
import weakref
from typing import Any

import pytest
from patience import PATIENCE_S

from lockstep_server.engine.runtime import engine_threads
from lockstep_server.engine.runtime.engine_threads import STOPPED, EngineThreads
from lockstep_server.errors import ErrorCode, ServingError, bad_input


class FakeEngine:
    """An engine whose steps are callables that the test queues; it is also its own session."""

    def __init__(self, count: int = 1) -> None:
        self.work: queue.Queue[Any] = queue.Queue()
        self.closed = 0
        self.terminations = 0
        self.is_terminated = threading.Event()
        self.failures: list[ServingError] = []
        self.pauses: queue.Queue[str] = queue.Queue()
        self._next = threading.local()
        self._count = count
        self.threads = EngineThreads(
            "m/1",
            wait=self.wait,
            step=self.step,
            fail_requests=self.failures.append,
            sessions=[Terminable(self)],
            report_paused=self.pauses.put,
            count=count,
        )

    def wait(self) -> bool:
        self._next.step = self.work.get()
        return self._next.step is not None

    def step(self) -> None:
        self._next.step()

    def close(self) -> None:
        self.closed += 1
        for _ in range(self._count):
            self.work.put(None)

    def run(self) -> None:
        """Wait until a step has run."""
        done = threading.Event()
        self.work.put(done.set)
        assert done.wait(PATIENCE_S)


class Terminable:
    """A session that counts its terminations, and ends its run."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = weakref.ref(engine)

    def terminate(self) -> None:
        engine = self._engine()
        assert engine is not None
        assert engine.threads.terminated, "or its run would fail with an internal error"
        engine.terminations += 1
        engine.is_terminated.set()


def test_a_step_that_raises_fails_the_requests_and_the_thread_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = FakeEngine()
    engine.threads.start()
    engine.work.put(lambda: 1 / 0)
    engine.run()
    engine.threads.stop(PATIENCE_S, engine.close)
    assert [error.code for error in engine.failures] == [ErrorCode.FAILED]
    assert "m/1: scheduling step failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_stopping_waits_for_the_work_and_then_terminates_the_sessions() -> None:
    engine, done = FakeEngine(), []
    engine.work.put(lambda: done.append(engine.terminations))
    engine.threads.start()
    engine.threads.stop(PATIENCE_S, engine.close)
    assert (done, engine.terminations, engine.closed) == ([0], 1, 2)
    assert (engine.threads.alive(), engine.threads.terminated, engine.threads.stopped) == (0, True, True)


def test_a_run_that_takes_too_long_is_terminated() -> None:
    engine, started = FakeEngine(), threading.Event()

    def long_run() -> None:
        started.set()
        assert engine.is_terminated.wait(PATIENCE_S)

    engine.work.put(long_run)
    engine.threads.start()
    assert started.wait(PATIENCE_S)
    engine.threads.stop(0.0, engine.close)
    assert engine.terminations == 1
    assert engine.threads.alive() == 0


def test_threads_that_were_not_started_can_be_stopped() -> None:
    engine = FakeEngine()
    engine.threads.stop(0.0, engine.close)
    assert engine.threads.stopped


def test_several_threads_run_steps_concurrently() -> None:
    engine, barrier = FakeEngine(2), threading.Barrier(3)
    for _ in range(2):
        engine.work.put(lambda: barrier.wait(PATIENCE_S))
    engine.threads.start()
    barrier.wait(PATIENCE_S)
    assert engine.threads.alive() == 2
    engine.threads.stop(PATIENCE_S, engine.close)
    assert engine.threads.alive() == 0


def test_a_stopped_engine_is_freed_without_garbage_collection() -> None:
    """It holds sessions, whose memory an unloaded model must return."""
    engine = FakeEngine()
    engine.threads.start()
    engine.run()
    engine.threads.stop(PATIENCE_S, engine.close)
    alive = weakref.ref(engine)
    gc.disable()
    try:
        del engine
        assert alive() is None
    finally:
        gc.enable()


def test_an_unexpected_error_becomes_failed_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    error = FakeEngine().threads.to_serving_error(RuntimeError("secret internals"))
    assert error.code is ErrorCode.FAILED
    assert "secret" not in error.message
    assert "secret internals" in caplog.text
    assert "m/1: run failed" in caplog.text


def test_a_serving_error_is_reported_as_it_is() -> None:
    error = bad_input("x", "too long")
    engine = FakeEngine()
    assert engine.threads.to_serving_error(error) is error
    engine.threads.terminated = True
    assert engine.threads.to_serving_error(error) is error


def test_the_error_of_a_terminated_run_is_unavailable(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine()
    engine.threads.terminated = True
    assert engine.threads.to_serving_error(RuntimeError("terminated")) is STOPPED
    assert STOPPED.code is ErrorCode.UNAVAILABLE
    assert caplog.text == ""


@pytest.mark.parametrize("ending", [SystemExit, KeyboardInterrupt, MemoryError])
def test_a_thread_that_ends_is_reported_and_restarted(
    ending: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_threads, "_MIN_PAUSE_S", 0.0)
    engine, done = FakeEngine(), threading.Event()

    def broken_wait() -> bool:
        if not engine.pauses.empty() or engine.failures:
            return engine.wait()
        raise ending

    threads = EngineThreads(
        "m/1",
        wait=broken_wait,
        step=engine.step,
        fail_requests=engine.failures.append,
        sessions=[],
        report_paused=engine.pauses.put,
    )
    threads.start()
    assert engine.pauses.get(timeout=PATIENCE_S)
    assert engine.pauses.get(timeout=PATIENCE_S) == ""
    assert [failure.code for failure in engine.failures] == [ErrorCode.FAILED]
    engine.work.put(done.set)
    assert done.wait(PATIENCE_S)
    threads.stop(PATIENCE_S, engine.close)
    assert threads.alive() == 0


def test_a_thread_that_waits_for_its_restart_stops_in_time() -> None:
    engine = FakeEngine()

    def broken_wait() -> bool:
        raise OverflowError

    threads = EngineThreads(
        "m/1",
        wait=lambda: (engine.closed > 0 and engine.wait()) or broken_wait(),
        step=engine.step,
        fail_requests=engine.failures.append,
        sessions=[],
        report_paused=engine.pauses.put,
    )
    threads.start()
    assert engine.pauses.get(timeout=PATIENCE_S)
    threads.stop(0.0, engine.close)
    assert threads.stopped
