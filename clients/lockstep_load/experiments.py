"""Experiments of several runs: a sweep of rates, and a search for the highest rate.

Each returns a document with its runs' documents under "runs", each with a "name".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lockstep_load import search as searching
from lockstep_load.documents import FORMAT, Document
from lockstep_load.plan import ClosedLoop, LoadProfile, OpenLoop, Target, Workload

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

    run: Callable[[str, Target, Workload, LoadProfile], Document]
    """Makes a named run; its document has "partial" set if the run was interrupted."""
    target: Target
    workload: Workload

    def sweep(
        self, load: LoadProfile, rates: Sequence[float], arrivals: ArrivalProcess = "poisson"
    ) -> Document:
        """An open loop at each rate, until one is interrupted."""
        runs: list[Document] = []
        for rate in rates:
            one = self.run(
                f"{rate:g}/s", self.target, self.workload, replace(load, pattern=OpenLoop(rate, arrivals))
            )
            runs.append(one)
            if one["partial"]:
                break
        return {**_header("sweep", runs), "runs": runs}

    def search(self, load: LoadProfile, search: SearchPlan) -> Document:
        """The highest rate that meets the bound, from probes of `load.seconds` each.

        An invalid probe measured the generator, not the server; it is repeated once.
        """
        probes: list[searching.Probe] = []
        runs: list[Document] = []
        search = replace(search, lowest=max(search.lowest, MIN_REQUESTS / load.seconds))
        while step := searching.next_step(search, probes):
            runs.append(self._probe(load, step, len(runs)))
            if not runs[-1]["valid"] and not runs[-1]["partial"]:
                runs.append(self._probe(load, step, len(runs)))
            if runs[-1]["partial"]:
                break
            held = searching.holds(runs[-1], search.bound)
            runs[-1]["probe"] = {"rate": step.rate, "holds": held, "confirming": step.confirming}
            probes.append(searching.Probe(step.rate, held, step.confirming))
        return {**_header("search", runs), "search": _search_result(search, probes, runs), "runs": runs}

    def estimate_start_rate(self, load: LoadProfile) -> float:
        """Half the throughput of a short closed loop: the first rate of a search, per second."""
        quick = replace(load, pattern=ClosedLoop(PROBE_CONCURRENCY), seconds=min(load.seconds, PROBE_S))
        rate: float = self.run("estimate of the capacity", self.target, self.workload, quick)["rates"]["ok"]
        return max(rate / 2, 1.0)

    def _probe(self, load: LoadProfile, step: searching.SearchStep, number: int) -> Document:
        seconds = load.seconds * (CONFIRMATION_FACTOR if step.confirming else 1)
        probing = replace(load, pattern=OpenLoop(step.rate), seconds=seconds, seed=load.seed + number)
        name = f"{'repeat at ' if step.confirming else ''}{step.rate:.4g}/s"
        return self.run(name, self.target, self.workload, probing)


def _header(kind: str, runs: Sequence[Document]) -> Document:
    return {
        "format": FORMAT,
        "kind": kind,
        "started_at": runs[0]["started_at"],
        "target": runs[0]["target"],
        "partial": any(one["partial"] for one in runs),
    }


def _search_result(
    search: SearchPlan, probes: Sequence[searching.Probe], runs: Sequence[Document]
) -> dict[str, Any]:
    rate = searching.confirmed_rate(search, probes)
    failed = [one for one in runs if not one.get("probe", {}).get("holds", True)]
    lowest = min(failed, key=lambda one: float(one["probe"]["rate"]), default=None)
    limit = None
    if lowest:
        limit = "the bound" if lowest["valid"] else f"the generator: {lowest['reasons'][0]}"
    return {
        "rate": rate,
        "percentile": search.bound.percentile,
        "bound_ms": search.bound.latency_ms,
        "confirmed": rate is not None,
        "confirmations": search.confirmations,
        "within": search.within,
        "probes": len(probes),
        "limit": limit,
    }
