"""Reads the server's /metrics during a run: rows per run, queueing and compute times, padding, rejections.

/metrics → two `Scrape`s, after the warm-up and at the end → `difference`, the part of the
counters that the measured part added. Only Lockstep's families are read. If the server lacks them or was
restarted during the run, the result is a note with the reason.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from http.client import HTTPException
from typing import TYPE_CHECKING

from msgspec import structs

from lockstep_client.metrics_text import Scrape, scrape
from lockstep_load import target_client
from lockstep_load.results import ModeMetrics, ServerMetrics, ServerSecond

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from lockstep_load.counts import RunCounts
    from lockstep_load.plan import Target

EVERY_S, TICK_S, TIMEOUT_S = 1.0, 0.02, 2.0


def difference(before: Scrape, after: Scrape, model: str) -> ServerMetrics:
    """What a run added to a model's counters; no `faces` if the server has no metrics of the model."""
    name = model.removesuffix(".step")

    def added(family: str, **labels: str) -> float:
        return after.total(family, model=name, **labels) - before.total(family, model=name, **labels)

    modes = {}
    for mode in sorted(after.values("lockstep_batch_rows_count", "mode", model=name)):
        runs = added("lockstep_batch_rows_count", mode=mode)
        if runs > 0:
            rows = added("lockstep_batch_rows_sum", mode=mode)
            modes[mode] = ModeMetrics(runs=runs, rows_per_run=round(rows / runs, 3))
    if not modes:
        return ServerMetrics()
    padded = added("lockstep_padded_elements_total")
    return ServerMetrics(
        faces=modes,
        queue_ms=_mean_ms(added, "lockstep_queue_seconds"),
        compute_ms=_mean_ms(added, "lockstep_compute_seconds"),
        padding=round(1 - added("lockstep_elements_total") / padded, 4) if padded else None,
        refused=added("lockstep_refused_total"),
    )


def restarted(before: Scrape, after: Scrape, model: str) -> bool:
    """Whether the server restarted between the scrapes: its start time changed, or a counter decreased."""
    if before.total("process_start_time_seconds") != after.total("process_start_time_seconds"):
        return True
    of_model = ("model", model.removesuffix(".step"))
    return any(
        after.samples.get((name, labels), 0.0) < value
        for (name, labels), value in before.samples.items()
        if of_model in labels and name.endswith(("_total", "_count"))
    )


def _mean_ms(added: Callable[[str], float], family: str) -> float | None:
    count = added(f"{family}_count")
    return round(added(f"{family}_sum") / count * 1e3, 4) if count else None


class Scraper:
    """Scrapes the metrics at the start and end of a run's measured part and every second, in a thread."""

    def __init__(self, address: str, target: Target) -> None:
        tls = target_client.tls(target)
        self._url = f"{'https' if tls else 'http'}://{address}/metrics"
        self._scrape_once = partial(scrape, address, TIMEOUT_S, tls=tls, token=target.metrics_token)
        self._model = target.model.removesuffix(".step")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._first = self._last = self._scrape()
        self._counts: RunCounts | None = None
        self.per_second: list[ServerSecond] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(2 * TIMEOUT_S)

    def observe(self, counts: RunCounts) -> None:
        """Attach the counts of the run; the measured part begins when their time reaches 0."""
        self._counts = counts

    def result(self) -> ServerMetrics:
        """What the run added after its warm-up, and the queue by second; or a note why that is unknown."""
        if self._first is None or self._last is None:
            return ServerMetrics(note=f"no metrics at {self._url}")
        last = self._scrape() or self._last
        if restarted(self._first, last, self._model):
            return ServerMetrics(note="the server was restarted during the run: its counters were reset")
        added = difference(self._first, last, self._model)
        if not added.faces:
            return ServerMetrics(note=f"{self._url} has no Lockstep metrics for runs of {self._model}")
        return structs.replace(added, seconds=self.per_second)

    def _run(self) -> None:
        begun, last = self._wait_for_warmup(), self._first
        while not self._stop.wait(EVERY_S):
            if now := self._scrape():
                self._last = now
                if last:
                    self.per_second.append(self._second(last, now, time.monotonic() - begun))
                last = now

    def _wait_for_warmup(self) -> float:
        """Wait for the end of the warm-up and take the first scrape. Returns the time.monotonic()."""
        while self._counts is None or self._counts.now_s < 0:
            if self._stop.wait(TICK_S):
                return time.monotonic()
        self._first = self._last = self._scrape() or self._first
        return time.monotonic()

    def _second(self, last: Scrape, now: Scrape, at_s: float) -> ServerSecond:
        modes = difference(last, now, self._model).faces.values()
        runs, rows = sum(one.runs for one in modes), sum(one.rows_per_run * one.runs for one in modes)
        return ServerSecond(
            at_s=round(at_s, 2),
            queue_depth=now.total("lockstep_queue_depth", model=self._model),
            rows_per_run=round(rows / runs, 3) if runs else 0.0,
        )

    def _scrape(self) -> Scrape | None:
        try:
            return self._scrape_once()
        except (OSError, ValueError, HTTPException):  # the port may speak another protocol
            return None
