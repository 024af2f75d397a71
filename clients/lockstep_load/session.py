"""Makes runs one after another on the same worker processes: `LoadProfile` → document.

SIGINT (Ctrl-C) and SIGTERM end the current run, or the next one if they arrive between two; its document is
marked partial and keeps what was measured. A second signal raises KeyboardInterrupt.
"""

from __future__ import annotations

import signal
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from lockstep_load import documents
from lockstep_load.counts import RunCounts
from lockstep_load.plan import worker_jobs
from lockstep_load.validity import MAX_LAG_MS
from lockstep_load.worker_pool import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Protocol, Self

    from lockstep_load.plan import LoadProfile, Target, Workload
    from lockstep_load.results import RunDocument

    class RunObserver(Protocol):
        """Follows a run while it is made."""

        def begin(self, load: LoadProfile, counts: RunCounts) -> None:
            """A run begins; `counts` grow from now on."""

        def update(self) -> None:
            """Called at least ten times per second during the run."""

        def end(self) -> None:
            """The run has ended."""


class LoadSession:
    """Worker processes and observers for a series of runs. Use it as a context manager."""

    def __init__(
        self, processes: int, observers: Sequence[RunObserver], max_lag_ms: float = MAX_LAG_MS
    ) -> None:
        self._observers = observers
        self._max_lag_ms = max_lag_ms
        self._workers = WorkerPool(processes)
        self._handlers: dict[signal.Signals, Any] = {}
        self.interrupted = False

    def run(
        self,
        target: Target,
        workload: Workload,
        load: LoadProfile,
        on_counts: Callable[[RunCounts], None] = lambda _: None,
    ) -> RunDocument:
        """Make one run. Its document has no name.

        `on_counts` receives the run's counts before it starts.
        """
        started_at, cpu_s = _now(), time.process_time()
        counts = RunCounts(load)
        on_counts(counts)
        jobs = worker_jobs(target, workload, load)
        for one in self._observers:
            one.begin(load, counts)
        self._workers.run(jobs, counts.add, self._update, lambda: self.interrupted)
        for one in self._observers:
            one.end()
        return documents.run_document(
            target,
            workload,
            jobs[0].load,
            counts,
            started_at=started_at,
            partial=self.interrupted,
            max_lag_ms=self._max_lag_ms,
            own_cpu_s=time.process_time() - cpu_s,
        )

    def _update(self) -> None:
        for one in self._observers:
            one.update()

    def _interrupt(self, *_: Any) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for one in (signal.SIGINT, signal.SIGTERM):
                self._handlers[one] = signal.signal(one, self._interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._workers.close()
        for one, handler in self._handlers.items():
            signal.signal(one, handler)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
