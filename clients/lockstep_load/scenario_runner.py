"""Runs a scenario: each entry becomes a run, a sweep or a search, and gets the result of its kind.

`Scenario` → `prepare_workloads` → `run_scenario` → document.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from msgspec import structs

from lockstep_load import compare, preflight
from lockstep_load.experiments import Experiment
from lockstep_load.plan import OpenLoop
from lockstep_load.results import (
    FORMAT,
    Drift,
    RunDocument,
    ScenarioDocument,
    ScenarioResult,
    SearchDocument,
    SweepDocument,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lockstep_load.plan import Workload
    from lockstep_load.runner import Runner
    from lockstep_load.scenario import Scenario
    from lockstep_load.scenario_entry import ScenarioEntry, ScenarioKind

MIN_SOAK_SECONDS = 6
"""A shorter run has no drift: its thirds are too short to compare."""


def prepare_workloads(scenario: Scenario, wait_s: float) -> list[Workload]:
    """Complete the workload of each entry. Raises the first error of `preflight.prepare`."""
    return [
        preflight.prepare(one.target, one.workload, one.call, one.overrides, wait_s)
        for one in scenario.entries
    ]


def run_scenario(scenario: Scenario, workloads: Sequence[Workload], runner: Runner) -> ScenarioDocument:
    """Run all entries in order, stopping after an interrupted one."""
    runs: list[RunDocument | SweepDocument | SearchDocument] = []
    for entry, workload in zip(scenario.entries, workloads, strict=True):
        runs.append(_run_entry(entry, workload, runner))
        if runner.interrupted:
            break
    return ScenarioDocument(
        format=FORMAT,
        name=scenario.name,
        about=scenario.about,
        started_at=runs[0].started_at,
        target=runs[0].target,
        partial=runner.interrupted,
        runs=runs,
    )


def _run_entry(
    entry: ScenarioEntry, workload: Workload, runner: Runner
) -> RunDocument | SweepDocument | SearchDocument:
    experiment = Experiment(runner.run, entry.target, workload)
    if entry.kind == "sweep":
        arrivals = entry.load.pattern.arrivals if isinstance(entry.load.pattern, OpenLoop) else "poisson"
        return structs.replace(experiment.sweep(entry.load, entry.rates, arrivals), name=entry.name)
    if entry.search:
        search = entry.search
        if not search.start:
            search = replace(search, start=experiment.estimate_start_rate(entry.load))
        return structs.replace(experiment.search(entry.load, search), name=entry.name)
    run = runner.run(entry.name, entry.target, workload, entry.load)
    if entry.kind == "soak":
        run = structs.replace(run, drift=drift(run))
    return structs.replace(run, result=_result(entry.kind, run))


def _result(kind: ScenarioKind, run: RunDocument) -> ScenarioResult:
    """The result metric of each kind; the first three are MLPerf's."""
    p90, p99 = (run.latency_ms.p90, run.latency_ms.p99) if run.latency_ms else (0.0, 0.0)
    what, value, unit = {
        "single-stream": ("p90 of the latency", p90, "ms"),
        "multi-stream": ("p99 of the latency of a query", p99, "ms"),
        "offline": ("throughput", run.rates.ok * run.load.rows, "samples/s"),
        "closed": ("throughput", run.rates.ok, "answers/s"),
        "open": ("p99 of the latency", p99, "ms"),
        "soak": ("p99 of the latency", p99, "ms"),
    }[kind]
    return ScenarioResult(scenario=kind, what=what, value=value, unit=unit)


def drift(run: RunDocument) -> Drift | None:
    """Compare the last third of a soak run with its first; None if the run is too short."""
    seconds = run.seconds
    third = len(seconds) // 3
    if len(seconds) < MIN_SOAK_SECONDS:
        return None
    first, last = (structs.replace(run, seconds=some) for some in (seconds[:third], seconds[-third:]))
    return Drift(
        seconds=third,
        metrics=[row for row in compare.compare_runs(first, last) if row.low is not None],
        in_flight=(seconds[third - 1].in_flight, seconds[-1].in_flight),
    )
