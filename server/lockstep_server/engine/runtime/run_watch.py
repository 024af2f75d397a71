"""Ends runs and loads that take too long: begin → slow → ended at the limit → stuck, if it goes on.

A thread looks at all current runs twice a second. A slow run gives its place on the device to others. At
`max_run_s` the run is asked to end, which ONNX Runtime does at the graph's next node. A run that goes on for
`STUCK_S` after that cannot be ended without its process.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from ... import memory
from ...durations import LONGEST_S
from ...errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)

SLOW_RUN_S, SLOW_LOAD_S = 2.0, 5.0
"""A run or load that takes longer than this holds up no others any more."""

STUCK_S = 5.0
"""How long a run may go on after it was asked to end."""

_CHECK_S = 0.5

_SHORT_S = 0.5
"""A run that took less was never slow, and no thread that looks at it can take it for a later one."""


class RunOptions(Protocol):
    """The part of `onnxruntime.RunOptions` that ends a run."""

    terminate: bool


class WatchedRun:
    """One run of a session, or one load of a model."""

    __slots__ = (
        "begun", "is_ended", "is_slow", "is_stuck", "limit_s", "load", "options", "owner", "short_s", "step",
        "thread"
    )  # fmt: skip

    def __init__(
        self, owner: str, options: RunOptions | None, begun: float, limit_s: float, load: WatchedRun | None
    ) -> None:
        self.owner, self.options, self.begun, self.limit_s, self.load = owner, options, begun, limit_s, load
        self.thread = threading.get_ident()
        self.short_s = min(_SHORT_S, limit_s / 2)
        self.is_slow = self.is_ended = self.is_stuck = False
        self.step = "start"  # of a load: what it does now

    def end(self) -> None:
        """Ask the run to end; all runs of a load, now and later."""
        self.is_ended = True
        self.terminate()
        if self.load is not None:
            self.load.is_ended = True

    def terminate(self) -> None:
        """Abort the run at its next node, if it is one."""
        if self.options is not None:
            self.options.terminate = True


class RunWatch:
    """The current runs and loads of an engine. Thread-safe.

    Args:
        on_slow: called with the id of the thread whose run or load has become slow.
        on_stuck: called with the model, as NAME/VERSION, and the reason, when a run does not end.
        on_step: called with the model that is loaded, and what its load does now.
    """

    def __init__(
        self,
        max_run_s: float = LONGEST_S,
        max_load_s: float = LONGEST_S,
        on_slow: Callable[[int], None] = lambda _: None,
        on_stuck: Callable[[str, str], None] = lambda *_: None,
        clock: Callable[[], float] = time.monotonic,
        on_step: Callable[[str, str], None] = lambda *_: None,
    ) -> None:
        self.max_run_s, self.max_load_s = max_run_s, max_load_s
        self._on_slow, self._on_stuck, self._on_step, self._clock = on_slow, on_stuck, on_step, clock
        self._runs: set[WatchedRun] = set()
        self._loads: dict[int, WatchedRun] = {}  # by thread
        self._terminated = False
        self.had_large_run = False  # since memory was given back last

    def start(self) -> None:
        """Start the thread. It ends with the process, so that runs are watched while the engine stops."""
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def begin(self, owner: str, options: RunOptions) -> WatchedRun:
        """A run begins on this thread. It must be given to `done` when it has ended."""
        load = self._loads.get(threading.get_ident()) if self._loads else None
        run = WatchedRun(owner, options, self._clock(), self.max_run_s, load)
        self._runs.add(run)
        self._end_if_late(run)
        return run

    def begin_again(self, run: WatchedRun) -> None:
        """As `begin`, for another run with the options of one that `done` has found to be usable."""
        run.thread = threading.get_ident()
        if self._loads:
            run.load = self._loads.get(run.thread)
        run.begun = self._clock()
        self._runs.add(run)
        if self._terminated or run.load is not None:
            self._end_if_late(run)

    def _end_if_late(self, run: WatchedRun) -> None:
        """End a run that begins after the end of all runs, or of all runs of its load."""
        if self._terminated:
            run.terminate()
        elif run.load is not None and run.load.is_ended:
            run.end()

    def done(self, run: WatchedRun) -> bool:
        """A run has ended. Returns whether another one can use it: it was short, and of no load."""
        self._runs.discard(run)
        return run.load is None and self._clock() - run.begun < run.short_s

    @contextmanager
    def load(self, owner: str) -> Iterator[WatchedRun]:
        """A context for loading a model on this thread: its runs end with it.

        Raises:
            LoadError: the load, or one of its runs, took too long.
        """
        load = WatchedRun(owner, None, self._clock(), self.max_load_s, None)
        self._loads[load.thread] = load
        self._runs.add(load)
        try:
            yield load
            self.check_load()
        finally:
            del self._loads[load.thread]
            self._runs.discard(load)

    def load_step(self, step: str) -> None:
        """The load on this thread, if there is one, begins this step."""
        load = self._loads.get(threading.get_ident())
        if load is not None:
            load.step = step
            self._on_step(load.owner, step)
            if load.is_slow:
                self._log_step(load)

    def _log_step(self, load: WatchedRun) -> None:
        seconds = self._clock() - load.begun
        log.info("model %s has been loading for %.0f s: %s", load.owner, seconds, load.step)

    def check_load(self) -> None:
        """
        Raises:
            LoadError: this thread loads a model, and the load, or one of its runs, was ended.
        """
        load = self._loads.get(threading.get_ident())
        if load is not None and (load.is_ended or self._terminated):
            raise LoadError(self._why(load))

    def _why(self, load: WatchedRun) -> str:
        if self._terminated:
            return "the server is stopping"
        if self._clock() - load.begun < load.limit_s:
            return (
                f"{load.owner}: a run of the self-test took longer than {self.max_run_s:g} s;"
                " check the graph for a loop without an end, or raise --max-run-s"
            )
        return f"{load.owner}: loading took longer than {load.limit_s:g} s ({load.step}); raise --max-load-s"

    def slow_loads(self) -> int:
        """The number of loads that have become slow."""
        return sum(load.is_slow for load in list(self._loads.values()))

    def terminate(self) -> None:
        """End all current runs and loads at their next node, and all later ones."""
        self._terminated = True
        for run in list(self._runs):
            run.terminate()

    def check(self) -> None:
        """Look at each run once. After large runs, give their memory back."""
        now = self._clock()
        if self.had_large_run and not self._runs:
            self.had_large_run = False
            memory.trim()
        for run in list(self._runs):
            seconds = now - run.begun
            if seconds >= (SLOW_RUN_S if run.options is not None else SLOW_LOAD_S) and not run.is_slow:
                run.is_slow = True
                if run.options is None:
                    self._log_step(run)
                self._on_slow(run.thread)
            if seconds >= run.limit_s and not (run.options.terminate if run.options else run.is_ended):
                log.error("%s: ended after %g s: %s", run.owner, run.limit_s, _limit_name(run))
                run.end()
            if seconds >= run.limit_s + STUCK_S and not run.is_stuck and run in self._runs:
                run.is_stuck = True
                self._on_stuck(run.owner, f"it did not end {STUCK_S:g} s after {_limit_name(run)}")

    def _watch(self) -> None:
        while True:
            time.sleep(_CHECK_S)
            try:
                self.check()
            except Exception:  # concerns one run; the watch goes on
                log.exception("watching the runs failed")


def _limit_name(run: WatchedRun) -> str:
    limit = "max_run_s" if run.options is not None else "max_load_s"
    return f"{limit} ({run.limit_s:g} s)"
