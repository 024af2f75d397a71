"""The threads of an engine: start → wait, step, wait, step, … → stop.

An error in a step fails the engine's requests, and the thread goes on. Whatever else ends a thread's work is
logged and reported, and the thread starts it again after a pause.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Protocol

from ...errors import RunTooLong, ServingError, failed, unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

log = logging.getLogger(__name__)

_TERMINATE_S = 1.0
"""How long a run may take to end after its session was terminated."""

_HEALTHY_S = 10.0
_MIN_PAUSE_S, _MAX_PAUSE_S = 1.0, 30.0
"""A thread that ends is restarted after a pause, which doubles if it ends again within `_HEALTHY_S`."""

STOPPED = unavailable("the model is being unloaded, or the server is stopping")
"""The error of requests that a stopped engine has not answered."""


class Session(Protocol):
    """The part of a session that stops its runs."""

    def terminate(self) -> None: ...


class EngineThreads:
    """Threads that run an engine's steps.

    Args:
        name: of the model, for logs.
        wait: blocks until there is work; False if the thread should end.
        step: one plan, run and commit.
        fail_requests: fails all requests after a step has raised.
        report_paused: called with the reason when a thread has ended, and with "" when all run again.
        sessions: to terminate when the time to stop is over.
        niceness: is added to the nice value of the threads.
    """

    def __init__(
        self,
        name: str,
        *,
        wait: Callable[[], bool],
        step: Callable[[], None],
        fail_requests: Callable[[ServingError], None],
        sessions: Iterable[Session],
        report_paused: Callable[[str], None] = lambda _: None,
        count: int = 1,
        niceness: int = 0,
    ) -> None:
        self._name, self._sessions, self._niceness = name, sessions, niceness
        self._report_paused = report_paused
        self._lock = threading.Lock()
        self._guest = threading.Lock()  # held by a thread in `step_here`
        self._paused = 0  # threads that wait to be restarted
        self._stop_pauses = threading.Event()
        self.terminated = False  # the sessions end their runs
        self.stopped = False  # no thread will answer a request any more
        work = wait, step, fail_requests  # a thread forgets its arguments when it ends, and frees the engine
        self._threads = [
            threading.Thread(target=self._work, args=work, name=f"engine-{name}-{i}", daemon=True)
            for i in range(count)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, within_s: float, close: Callable[[], None]) -> None:
        """Wait for the threads to finish their work for at most `within_s` seconds, then terminate the
        sessions. The caller fails the requests that are left.

        Args:
            close: makes `wait` return False once there is no work left; the second call, once `terminated`
                is true.
        """
        close()
        self._stop_pauses.set()
        self._join(within_s)
        self.terminated = True
        for session in self._sessions:
            session.terminate()
        close()
        self._join(_TERMINATE_S)
        self.stopped = True

    def alive(self) -> int:
        """The number of threads that run."""
        return sum(thread.is_alive() for thread in self._threads)

    def to_serving_error(self, error: BaseException) -> ServingError:
        """The error to report to the requests of a failed run. An unexpected one is logged."""
        if isinstance(error, ServingError):
            return error
        if self.terminated:
            return STOPPED
        failure = failed(self._name)
        log.error("%s: run failed: %s", self._name, failure.message, exc_info=error)
        return failure

    def _join(self, within_s: float) -> None:
        end = time.monotonic() + within_s
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(end - time.monotonic(), 0.0))
        if self._guest.acquire(timeout=max(end - time.monotonic(), 0.0)):
            self._guest.release()

    def _work(
        self,
        wait: Callable[[], bool],
        step: Callable[[], None],
        fail_requests: Callable[[ServingError], None],
    ) -> None:
        _lower_priority(self._niceness)
        pause_s = 0.0
        while True:
            begun = time.monotonic()
            try:
                while wait():
                    try:
                        step()
                    except Exception as error:
                        self._step_failed(error, fail_requests)
            except BaseException:  # a panic of a library is no `Exception`
                healthy = time.monotonic() - begun >= _HEALTHY_S
                pause_s = _MIN_PAUSE_S if healthy else min(max(pause_s * 2, _MIN_PAUSE_S), _MAX_PAUSE_S)
                log.exception("%s: an engine thread ended; restarting it in %g s", self._name, pause_s)
                self._pause(pause_s, fail_requests)
            else:
                return

    def step_here(self, step: Callable[[], None], fail_requests: Callable[[ServingError], None]) -> None:
        """Run a step on the calling thread, which is none of the engine's. One at a time."""
        with self._guest:
            try:
                step()
            except BaseException as error:  # of a library: the caller serves other models too
                self._step_failed(error, fail_requests)

    def _step_failed(self, error: BaseException, fail_requests: Callable[[ServingError], None]) -> None:
        log.error("%s: scheduling step failed; failing all in-flight requests", self._name, exc_info=error)
        fail_requests(failed(self._name))

    def _pause(self, seconds: float, fail_requests: Callable[[ServingError], None]) -> None:
        """Report that the model takes no requests, fail those that it has, and wait."""
        with self._lock:
            self._paused += 1
            self._report_safely("an engine thread ended and is being restarted")
        try:
            fail_requests(failed(self._name))
        except BaseException:
            log.exception("%s: failing the requests failed", self._name)
        self._stop_pauses.wait(seconds)
        with self._lock:
            self._paused -= 1
            if not self._paused:
                self._report_safely("")

    def _report_safely(self, reason: str) -> None:
        try:
            self._report_paused(reason)
        except BaseException:
            log.exception("%s: reporting the state of the engine threads failed", self._name)


def not_after(error: Exception | None) -> ServingError | None:
    """The error of requests that are not retried, one by one, after one of them failed with `error`; None:
    they are. If each took as long, all other requests would wait for them."""
    if not isinstance(error, RunTooLong):
        return None
    return unavailable("another request of the same run took too long (max_run_s); retry")


def _lower_priority(niceness: int) -> None:
    """Raise this thread's nice value, so that the threads that queue requests run first and batches grow
    (docs/decisions/0013). Linux only: other systems have no nice value per thread."""
    if sys.platform == "linux" and niceness:
        thread = threading.get_native_id()
        nice = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, nice + niceness)
