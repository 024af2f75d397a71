"""Builds run documents from given records."""

from __future__ import annotations

from typing import Any

import numpy as np

from lockstep_load import documents
from lockstep_load.counts import RunCounts
from lockstep_load.lengths import parse
from lockstep_load.outcome import RequestOutcome
from lockstep_load.plan import LoadProfile, OpenLoop, Target, Workload
from lockstep_load.results import LatencySummary, RunDocument
from lockstep_load.worker_messages import RECORD, RecordBatch, WorkerDone

Record = tuple[float, float, float, float, float, int, int, int]


def record(
    due: float,
    took: float,
    *,
    outcome: RequestOutcome = RequestOutcome.OK,
    length: int = 10,
    lag: float = 1e-4,
) -> Record:
    return (due, lag, took, float("nan"), float("nan"), length, 0, int(outcome))


def batch(records: list[Record], at_s: float, index: int = 0) -> RecordBatch:
    packed = np.array(records, RECORD).tobytes()
    return RecordBatch(index, at_s, packed, b"", {}, 0, 0.01, {})


def counts(records: list[Record], seconds: float) -> RunCounts:
    made = RunCounts(LoadProfile(OpenLoop(100.0), seconds))
    made.add(batch(records, seconds))
    made.add(WorkerDone(0, 0, False, 0.01, seconds))
    return made


def run(records: list[Record], seconds: float, **how: Any) -> RunDocument:
    lengths = parse("10")
    assert lengths is not None
    return documents.run_document(
        Target("localhost:1", "m"),
        Workload("classify", lengths),
        LoadProfile(OpenLoop(100.0), seconds),
        counts(records, seconds),
        started_at="2026-01-01T00:00:00+00:00",
        max_lag_ms=10.0,
        own_cpu_s=0.01,
        **{"partial": False, **how},
    )


def steady(seconds: int, latency_ms: float, rate: int = 100, seed: int = 0) -> RunDocument:
    """`rate` requests per second with a latency that varies a little."""
    rng = np.random.default_rng(seed)
    took = latency_ms / 1e3 * rng.lognormal(0, 0.2, seconds * rate)
    return run([record(at / rate, float(one)) for at, one in enumerate(took)], seconds)


def times(ms: float, count: int = 9) -> LatencySummary:
    """A summary in which all times are equal."""
    return LatencySummary(count=count, min=ms, mean=ms, p50=ms, p90=ms, p99=ms, p99_9=ms, max=ms)
