"""Starts the worker processes once and runs one load after another on them.

`WorkerPool.run` sends each worker its `WorkerJob`, starts all workers together when all are ready, and passes
their messages on until all have finished. A worker that dies is reported as `WorkerFailed`; the others finish
their run.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from contextlib import contextmanager, suppress
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

from lockstep_load import worker
from lockstep_load.plan import OpenLoop
from lockstep_load.worker_messages import WorkerDone, WorkerFailed, WorkerReady

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from multiprocessing.connection import Connection
    from types import TracebackType
    from typing import Self

    from lockstep_load.plan import WorkerJob

START_DELAY_S = 0.05
"""Delay between the start command and the first request, so that all workers have received the command."""

START_TIMEOUT_S = 60.0


class WorkerPool:
    """Up to `processes` worker processes. Use it as a context manager."""

    def __init__(self, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        with _no_interrupts():  # child processes inherit the ignored SIGINT
            for _ in range(processes):
                ours, theirs = context.Pipe()
                process = context.Process(target=worker.main, args=(theirs,), daemon=True)
                process.start()
                theirs.close()
                self._pipes.append(ours)
                self._processes.append(process)

    def run(
        self,
        jobs: Sequence[WorkerJob],
        on_message: Callable[[Any], None],
        on_tick: Callable[[], None],
        should_stop: Callable[[], bool],
    ) -> None:
        """Run one job per worker.

        `on_message` receives every RecordBatch, WorkerDone and WorkerFailed; `on_tick` is called at least ten
        times per second. The run ends early once `should_stop` returns True.
        """
        pipes = self._pipes[: len(jobs)]
        for pipe, job in zip(pipes, jobs, strict=True):
            _send(pipe, job)
        ready = _Barrier(pipes, on_message, on_tick)
        ready.wait_for(
            lambda message: isinstance(message, WorkerReady),
            lambda: should_stop() or ready.age_s > START_TIMEOUT_S,
        )
        go = worker.StopRun() if should_stop() else worker.StartRun(_start_delay_s(jobs[0]))
        for pipe in pipes:
            _send(pipe, go)
        running = _Barrier(pipes, on_message, on_tick, exclude=ready.failed)
        if running.wait_for(lambda message: isinstance(message, WorkerDone), should_stop) and not isinstance(
            go, worker.StopRun
        ):
            for pipe in pipes:
                _send(pipe, worker.StopRun())
        running.wait_for(
            lambda message: isinstance(message, WorkerDone), lambda: running.age_s > _max_run_s(jobs[0])
        )

    def close(self) -> None:
        """Stop the worker processes."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(2.0)
            if process.is_alive():
                process.kill()
                process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Barrier:
    """Waits for one kind of message from every worker, and passes on all other messages meanwhile."""

    def __init__(
        self,
        pipes: Sequence[Connection],
        on_message: Callable[[Any], None],
        on_tick: Callable[[], None],
        exclude: Collection[Connection] = (),
    ) -> None:
        self._pending = {pipe: index for index, pipe in enumerate(pipes) if pipe not in exclude}
        self.failed: list[Connection] = []
        self._on_message, self._on_tick = on_message, on_tick
        self._begun = time.perf_counter()

    @property
    def age_s(self) -> float:
        return time.perf_counter() - self._begun

    def wait_for(self, is_awaited: Callable[[Any], bool], should_stop: Callable[[], bool]) -> bool:
        """Wait for the message from every worker. Returns True if stopped before all had sent it."""
        while self._pending:
            for pipe in connection.wait(list(self._pending), timeout=0.1):
                assert isinstance(pipe, connection.Connection)
                message = self._read(pipe)
                if not isinstance(message, WorkerReady):
                    self._on_message(message)
                if isinstance(message, WorkerFailed):
                    self.failed.append(pipe)
                if is_awaited(message) or isinstance(message, WorkerFailed):
                    self._pending.pop(pipe)
            self._on_tick()
            if should_stop():
                return bool(self._pending)
        return False

    def _read(self, pipe: Connection) -> Any:
        try:
            return pipe.recv()
        except (EOFError, OSError):
            return WorkerFailed(self._pending[pipe], "the worker process exited")


def _start_delay_s(job: WorkerJob) -> float:
    return job.load.warmup_s + START_DELAY_S


def _max_run_s(job: WorkerJob) -> float:
    """Longest duration of a run: schedule, timeout of the last request, and time to report. Then it hangs."""
    load = job.load
    seconds = load.seconds if isinstance(load.pattern, OpenLoop) else load.seconds + job.target.timeout_s
    return load.warmup_s + seconds + job.target.timeout_s + 30.0


def _send(pipe: Connection, message: Any) -> None:
    with suppress(OSError):  # a dead worker is detected when its pipe is read
        pipe.send(message)


@contextmanager
def _no_interrupts() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
