"""The generator processes, seen from the parent: started once, given one run after another.

`Generators.run` gives each its `Job`, starts all together when all are ready, and passes what they tell on to
a watcher, until all have ended. A process that dies is told as `Broken`; the others end their run.
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
from lockstep_load.plan import Open
from lockstep_load.worker_messages import WorkerDone, WorkerFailed, WorkerReady

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from multiprocessing.connection import Connection
    from types import TracebackType
    from typing import Self

    from lockstep_load.plan import WorkerJob

LEAD_S = 0.05
"""Between the word to go and the first request, so that all processes have heard it."""

START_S = 60.0


class Generators:
    """Up to `processes` of them. Use it in a `with`."""

    def __init__(self, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        with _no_interrupts():  # what is started inherits that
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
        watch: Callable[[Any], None],
        tick: Callable[[], None],
        stopping: Callable[[], bool],
    ) -> None:
        """Do the jobs, one a process.

        `watch` gets every Batch, Ended and Broken; `tick` is called at least ten times a second. Once
        `stopping` says so the run ends early.
        """
        pipes = self._pipes[: len(jobs)]
        for pipe, job in zip(pipes, jobs, strict=True):
            _tell(pipe, job)
        ready = _Round(pipes, watch, tick)
        ready.until(lambda told: isinstance(told, WorkerReady), lambda: stopping() or ready.age_s > START_S)
        go = worker.StopRun() if stopping() else worker.StartRun(_lead_s(jobs[0]))
        for pipe in pipes:
            _tell(pipe, go)
        running = _Round(pipes, watch, tick, without=ready.broken)
        if running.until(lambda told: isinstance(told, WorkerDone), stopping) and not isinstance(
            go, worker.StopRun
        ):
            for pipe in pipes:
                _tell(pipe, worker.StopRun())
        running.until(lambda told: isinstance(told, WorkerDone), lambda: running.age_s > _longest_s(jobs[0]))

    def close(self) -> None:
        """End the processes."""
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


class _Round:
    """Waiting for one kind of message from every process, whatever else they tell meanwhile."""

    def __init__(
        self,
        pipes: Sequence[Connection],
        watch: Callable[[Any], None],
        tick: Callable[[], None],
        without: Collection[Connection] = (),
    ) -> None:
        self._awaited = {pipe: index for index, pipe in enumerate(pipes) if pipe not in without}
        self.broken: list[Connection] = []
        self._watch, self._tick = watch, tick
        self._begun = time.perf_counter()

    @property
    def age_s(self) -> float:
        return time.perf_counter() - self._begun

    def until(self, awaited: Callable[[Any], bool], stopping: Callable[[], bool]) -> bool:
        """Whether it was stopped before all had told."""
        while self._awaited:
            for pipe in connection.wait(list(self._awaited), timeout=0.1):
                assert isinstance(pipe, connection.Connection)
                told = self._read(pipe)
                if not isinstance(told, WorkerReady):
                    self._watch(told)
                if isinstance(told, WorkerFailed):
                    self.broken.append(pipe)
                if awaited(told) or isinstance(told, WorkerFailed):
                    self._awaited.pop(pipe)
            self._tick()
            if stopping():
                return bool(self._awaited)
        return False

    def _read(self, pipe: Connection) -> Any:
        try:
            return pipe.recv()
        except (EOFError, OSError):
            return WorkerFailed(self._awaited[pipe], "the generator process ended")


def _lead_s(job: WorkerJob) -> float:
    return job.load.warmup_s + LEAD_S


def _longest_s(job: WorkerJob) -> float:
    """A run that is longer hangs: its schedule, the last timeout, and time to tell."""
    load = job.load
    seconds = load.seconds if isinstance(load.pace, Open) else load.seconds + job.target.timeout_s
    return load.warmup_s + seconds + job.target.timeout_s + 30.0


def _tell(pipe: Connection, message: Any) -> None:
    with suppress(OSError):  # a process that died is noticed where it is read
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
