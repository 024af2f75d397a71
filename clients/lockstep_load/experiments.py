"""Experiments of several runs: a sweep of rates, and a search for the highest rate.

Each returns a document with the documents of its named runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from msgspec import structs

from lockstep_load import search as searching
from lockstep_load.plan import ClosedLoop, LoadProfile, OpenLoop, Target, Workload
from lockstep_load.results import (
    FORMAT,
    Probe,
    RunDocument,
    SearchDocument,
    SearchResult,
    SweepDocument,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lockstep_load.arrivals import ArrivalProcess
    from lockstep_load.search import SearchPlan

PROBE_CONCURRENCY, PROBE_S = 32, 2.0
"""A short closed loop that estimates the first rate of a search."""

CONFIRMATION_FACTOR = 2.0
MIN_REQUESTS = 10
"""A search gives up at rates whose probes would have fewer requests: a percentile needs more."""


@dataclass(frozen=True)
class Experiment:
    """Runs several loads with one workload against one target."""

    run: Callable[[str, Target, Workload, LoadProfile], RunDocument]
    """Makes a named run; its document is `partial` if the run was interrupted."""
    target: Target
    workload: Workload

    def sweep(
        self, load: LoadProfile, rates: Sequence[float], arrivals: ArrivalProcess = "poisson"
    ) -> SweepDocument:
        """An open loop at each rate, until one is interrupted."""
        runs: list[RunDocument] = []
        for rate in rates:
            one = self.run(
                f"{rate:g}/s", self.target, self.workload, replace(load, pattern=OpenLoop(rate, arrivals))
            )
            runs.append(one)
            if one.partial:
                break
        return SweepDocument(**_header(runs), runs=runs)

    def search(self, load: LoadProfile, search: SearchPlan) -> SearchDocument:
        """The highest rate that meets the bound, from probes of `load.seconds` each.

        An invalid probe measured the generator, not the server; it is repeated once.
        """
        probes: list[Probe] = []
        runs: list[RunDocument] = []
        search = replace(search, lowest=max(search.lowest, MIN_REQUESTS / load.seconds))
        while step := searching.next_step(search, probes):
            run = self._probe(load, step, len(runs))
            if not run.valid and not run.partial:
                runs.append(run)
                run = self._probe(load, step, len(runs))
            if run.partial:
                runs.append(run)
                break
            probes.append(Probe(step.rate, searching.holds(run, search.bound), step.confirming))
            runs.append(structs.replace(run, probe=probes[-1]))
        return SearchDocument(**_header(runs), search=_search_result(search, probes, runs), runs=runs)

    def estimate_start_rate(self, load: LoadProfile) -> float:
        """Half the throughput of a short closed loop: the first rate of a search, per second."""
        quick = replace(load, pattern=ClosedLoop(PROBE_CONCURRENCY), seconds=min(load.seconds, PROBE_S))
        rate = self.run("estimate of the capacity", self.target, self.workload, quick).rates.ok
        return max(rate / 2, 1.0)

    def _probe(self, load: LoadProfile, step: searching.SearchStep, number: int) -> RunDocument:
        seconds = load.seconds * (CONFIRMATION_FACTOR if step.confirming else 1)
        probing = replace(load, pattern=OpenLoop(step.rate), seconds=seconds, seed=load.seed + number)
        name = f"{'repeat at ' if step.confirming else ''}{step.rate:.4g}/s"
        return self.run(name, self.target, self.workload, probing)


def _header(runs: Sequence[RunDocument]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "started_at": runs[0].started_at,
        "target": runs[0].target,
        "partial": any(one.partial for one in runs),
    }


def _search_result(search: SearchPlan, probes: Sequence[Probe], runs: Sequence[RunDocument]) -> SearchResult:
    rate = searching.confirmed_rate(search, probes)
    failed = [(one.probe.rate, one) for one in runs if one.probe and not one.probe.holds]
    limit = None
    if failed:
        _, lowest = min(failed, key=lambda pair: pair[0])
        limit = "the bound" if lowest.valid else f"the generator: {lowest.reasons[0]}"
    return SearchResult(
        rate=rate,
        percentile=search.bound.percentile,
        bound_ms=search.bound.latency_ms,
        confirmed=rate is not None,
        confirmations=search.confirmations,
        within=search.within,
        probes=len(probes),
        limit=limit,
    )
