"""Runs, one after another, on the same generator processes: from a `Load` to its `Document`.

Ctrl-C and SIGTERM end the run that goes on, whose document is then marked partial. A second one ends all.
"""

from __future__ import annotations

import signal
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from lockstep_client.load import document
from lockstep_client.load.generators import Generators
from lockstep_client.load.ledger import Ledger
from lockstep_client.load.plan import jobs
from lockstep_client.load.verdict import MAX_LAG_MS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Protocol, Self

    from lockstep_client.load.document import Document
    from lockstep_client.load.plan import Load, Target, Workload

    class Watcher(Protocol):
        """Who shows a run as it goes."""

        def begin(self, load: Load, ledger: Ledger) -> None:
            """A run begins; its ledger fills from now on."""

        def look(self) -> None:
            """Time has passed: called ten times a second or more."""

        def end(self) -> None:
            """The run has ended."""


class Session:
    """Generator processes, and who watches. Use it in a `with`."""

    def __init__(self, processes: int, watchers: Sequence[Watcher], max_lag_ms: float = MAX_LAG_MS) -> None:
        self._watchers = watchers
        self._max_lag_ms = max_lag_ms
        self._generators = Generators(processes)
        self.interrupted = False

    def run(self, target: Target, workload: Workload, load: Load) -> Document:
        """One run. Its document says whether it is valid, and whether it was cut short."""
        started_at, cpu_s = _now(), time.process_time()
        ledger = Ledger(load)
        shares = jobs(target, workload, load)
        for one in self._watchers:
            one.begin(load, ledger)
        with self._interruptible():
            self._generators.run(shares, ledger.take, self._look, lambda: self.interrupted)
        for one in self._watchers:
            one.end()
        return document.of_run(
            target,
            workload,
            shares[0].load,
            ledger,
            started_at=started_at,
            partial=self.interrupted,
            max_lag_ms=self._max_lag_ms,
            own_cpu_s=time.process_time() - cpu_s,
        )

    def _look(self) -> None:
        for one in self._watchers:
            one.look()

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {one: signal.signal(one, self._interrupt) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def _interrupt(self, *_: Any) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._generators.close()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
