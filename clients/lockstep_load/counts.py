"""Aggregates the messages of the worker processes: counts and histograms, in total and by second.

Latency is assigned to the second in which the request was due, so that a stall shows where it happened.
Answers, tokens and elements are assigned to the second in which they arrived.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lockstep_load.histogram import LatencyHistogram
from lockstep_load.outcome import RequestOutcome
from lockstep_load.worker_messages import RECORD, RecordBatch, WorkerDone, WorkerFailed

if TYPE_CHECKING:
    from lockstep_load.plan import LoadProfile


def bucket(length: int) -> int:
    """The smallest power of two that is not below `length`; lengths are reported by it."""
    return 1 << max(length - 1, 0).bit_length()


@dataclass
class SecondCounts:
    """One second of the measured part."""

    due: int = 0
    """Requests due in this second that were sent."""
    ended: Counter[RequestOutcome] = field(default_factory=Counter)
    """Requests that ended in this second, by outcome."""
    elements: int = 0
    """Elements of the requests answered in this second."""
    tokens: int = 0
    """Tokens that arrived in this second."""
    in_flight: int = 0
    """Requests in flight at its end."""
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    """Latency of the answered requests that were due in this second."""


class RunCounts:
    """Counts and histograms of a run so far."""

    def __init__(self, load: LoadProfile) -> None:
        self._end_s = load.seconds
        self.outcomes: Counter[RequestOutcome] = Counter()
        """Requests due in the measured part, by outcome."""
        self.warmup = 0
        """Requests due in the warm-up."""
        self.completions: Counter[RequestOutcome] = Counter()
        """Requests that ended in the measured part, whenever they were due, by outcome."""
        self.elements = 0
        self.tokens = 0
        self.latency, self.lag, self.first, self.per_token, self.gaps = (LatencyHistogram() for _ in range(5))
        self.lengths: dict[int, LatencyHistogram] = {}
        self.seconds: dict[int, SecondCounts] = {}
        self.examples: dict[RequestOutcome, str] = {}
        self.ended: list[WorkerDone] = []
        self.failures: list[WorkerFailed] = []
        self.last_answer_s = 0.0
        self.now_s = -math.inf
        """Time up to which all workers have reported, in seconds after the start of the measured part."""
        self._worker_states: dict[int, tuple[float, int, float]] = {}

    @property
    def in_flight(self) -> int:
        """Requests in flight in all workers."""
        return sum(in_flight for _, in_flight, _ in self._worker_states.values())

    @property
    def cpu_share(self) -> float:
        """Mean CPU use of the workers so far, as a fraction of one core."""
        shares = [cpu_s / at_s for at_s, _, cpu_s in self._worker_states.values() if at_s > 0]
        return sum(shares) / len(shares) if shares else 0.0

    def second(self, number: int) -> SecondCounts:
        """Counts of second `number` of the measured part, created if missing."""
        if number not in self.seconds:  # not setdefault, which would build a histogram on every call
            self.seconds[number] = SecondCounts()
        return self.seconds[number]

    def add(self, message: Any) -> None:
        """Add a message of a worker process."""
        if isinstance(message, RecordBatch):
            self._add_batch(message)
        elif isinstance(message, WorkerDone):
            self.ended.append(message)
        elif isinstance(message, WorkerFailed):
            self.failures.append(message)

    def _add_batch(self, batch: RecordBatch) -> None:
        self._worker_states[batch.index] = (batch.at_s, batch.in_flight, batch.cpu_s)
        self.now_s = min(at_s for at_s, _, _ in self._worker_states.values())
        for outcome, why in batch.examples.items():
            self.examples.setdefault(outcome, why)
        for number, tokens in batch.tokens.items():
            if number < self._end_s:
                self.second(number).tokens += tokens
                self.tokens += tokens
        self.gaps.record_all(np.frombuffer(batch.gaps, np.float32).tolist())
        for record in np.frombuffer(batch.records, RECORD).tolist():
            self._add_record(*record)
        if 0 <= batch.at_s < self._end_s:
            self.second(int(batch.at_s)).in_flight = self.in_flight

    def _add_record(
        self,
        due: float,
        lag: float,
        took: float,
        first: float,
        per_token: float,
        length: int,
        _: int,
        code: int,
    ) -> None:
        outcome = RequestOutcome(code)
        self._count_end(due + took, outcome, length)
        if due < 0:
            self.warmup += 1
            return
        self.outcomes[outcome] += 1
        self.second(int(due)).due += 1
        self.lag.record(lag)
        if outcome is not RequestOutcome.OK:
            return
        self.latency.record(took)
        self.second(int(due)).latency.record(took)
        self._length_histogram(length).record(took)
        if not math.isnan(first):
            self.first.record(first)
        if not math.isnan(per_token):
            self.per_token.record(per_token)

    def _length_histogram(self, length: int) -> LatencyHistogram:
        if (most := bucket(length)) not in self.lengths:
            self.lengths[most] = LatencyHistogram()
        return self.lengths[most]

    def _count_end(self, end_s: float, outcome: RequestOutcome, length: int) -> None:
        if not 0 <= end_s < self._end_s:
            return
        second = self.second(int(end_s))
        second.ended[outcome] += 1
        self.completions[outcome] += 1
        if outcome is RequestOutcome.OK:
            self.last_answer_s = max(self.last_answer_s, end_s)
            second.elements += length
            self.elements += length
