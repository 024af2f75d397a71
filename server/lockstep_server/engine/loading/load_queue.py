"""Runs the loading and unloading of models one after another, past those that take long.

put → waiting → the next job, once no other is running → done. A job that is slow holds up only jobs of its
own model: another thread takes the others.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_THREADS = 16
"""Jobs at a time, if all but one are slow."""


class _Job(NamedTuple):
    model: str
    future: Future[Any]
    work: Callable[..., Any]
    args: tuple[Any, ...]


class LoadQueue:
    """Jobs by model. Jobs of one model run in order and never together. Thread-safe.

    Its threads do not keep the process alive.

    Args:
        slow_jobs: the number of running jobs that are slow.
    """

    def __init__(self, slow_jobs: Callable[[], int]) -> None:
        self._slow_jobs = slow_jobs
        self._lock = threading.Lock()
        self._waiting: deque[_Job] = deque()
        self._running: set[str] = set()  # models
        self._closed = False

    def submit(self, model: str, work: Callable[..., Any], *args: Any) -> Future[Any]:
        """Queue `work(*args)`, which loads or unloads a model. If the queue is closed, the returned future is
        cancelled."""
        future: Future[Any] = Future()
        with self._lock:
            if not self._closed:
                self._waiting.append(_Job(model, future, work, args))
        if self._closed:
            future.cancel()
            future.set_running_or_notify_cancel()
        self.advance()
        return future

    def advance(self) -> None:
        """Start the next job if no job runs, apart from slow ones."""
        with self._lock:
            if len(self._running) > min(self._slow_jobs(), MAX_THREADS - 1):
                return
            job = next((job for job in self._waiting if job.model not in self._running), None)
            if job is None:
                return
            self._waiting.remove(job)
            self._running.add(job.model)
        threading.Thread(target=self._run, args=(job,), name="loader", daemon=True).start()

    def close(self) -> None:
        """Start no more jobs, and cancel those that wait."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, deque()
        for job in waiting:
            job.future.cancel()
            job.future.set_running_or_notify_cancel()

    def _run(self, job: _Job) -> None:
        job.future.set_running_or_notify_cancel()
        try:
            result = job.work(*job.args)
        except BaseException as error:
            job.future.set_exception(error)
        else:
            job.future.set_result(result)
        with self._lock:
            self._running.discard(job.model)
        self.advance()
