"""Playing a scenario: each entry to a run, a sweep or a search, and to the number that its kind is about."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lockstep_load import preflight, soak
from lockstep_load.experiments import Experiment
from lockstep_load.plan import Open
from lockstep_load.run_record import FORMAT, Document

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lockstep_load.plan import Workload
    from lockstep_load.runner import Runner
    from lockstep_load.scenario import Scenario
    from lockstep_load.scenario_entry import ScenarioEntry, Shape


def prepared(scenario: Scenario, wait_s: float) -> list[Workload]:
    """The workload of each entry, once its model has answered; raises what the first does that does not."""
    return [
        preflight.prepared(one.target, one.workload, one.kind, one.wanted, wait_s) for one in scenario.entries
    ]


def play(scenario: Scenario, workloads: Sequence[Workload], desk: Runner) -> Document:
    """All entries, in order; an interruption ends it with the entry that it met."""
    made: list[Document] = []
    for entry, workload in zip(scenario.entries, workloads, strict=True):
        made.append(_played(entry, workload, desk))
        if desk.interrupted:
            break
    return {
        "format": FORMAT,
        "kind": "scenario",
        "name": scenario.name,
        "about": scenario.about,
        "started_at": made[0]["started_at"],
        "target": made[0]["target"],
        "partial": desk.interrupted,
        "runs": made,
    }


def _played(entry: ScenarioEntry, workload: Workload, desk: Runner) -> Document:
    campaign = Experiment(desk.run, entry.target, workload)
    if entry.shape == "sweep":
        arrivals = entry.load.pace.arrivals if isinstance(entry.load.pace, Open) else "poisson"
        return {**campaign.sweep(entry.load, entry.rates, arrivals), "name": entry.name}
    if entry.search:
        search = entry.search
        if not search.start:
            search = replace(search, start=campaign.start(entry.load))
        return {**campaign.search(entry.load, search), "name": entry.name}
    run = desk.run(entry.name, entry.target, workload, entry.load)
    if entry.shape == "soak":
        run["drift"] = soak.drift(run)
    return {**run, "result": _result(entry.shape, run)}


def _result(shape: Shape, run: Document) -> dict[str, Any]:
    """The metric of each kind; the first three are MLPerf's."""
    latency = run["latency_ms"] or {}
    what, value, unit = {
        "single-stream": ("p90 of the latency", latency.get("p90", 0.0), "ms"),
        "multi-stream": ("p99 of the latency of a query", latency.get("p99", 0.0), "ms"),
        "offline": ("throughput", run["rates"]["ok"] * run["load"]["rows"], "samples/s"),
        "closed": ("throughput", run["rates"]["ok"], "answers/s"),
        "open": ("p99 of the latency", latency.get("p99", 0.0), "ms"),
        "soak": ("p99 of the latency", latency.get("p99", 0.0), "ms"),
    }[shape]
    return {"scenario": shape, "what": what, "value": value, "unit": unit}
