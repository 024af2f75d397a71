"""One model version that the front end serves, and what it counts."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .. import messages
from ..errors import ErrorCode
from .callers import current
from .request_log import RequestLog

if TYPE_CHECKING:
    from ..errors import ServingError
    from ..metrics.families import ModelMeters
    from ..model.spec import ModelSpec
    from .admission import AdmissionController
    from .callers import Caller
    from .tokenization import OpenVocabulary

_SEQUENCES_PER_SLOT = 4
_LEARNING_RATE = 0.02
_NO_SEQUENCES = messages.SequenceCounts(0, 0, 0)


@dataclass
class ModelStatisticsCounters:
    """Counts and seconds since the model became ready, for ModelStatistics."""

    succeeded: int = 0
    success_s: float = 0.0
    failed: int = 0
    fail_s: float = 0.0
    queue_s: float = 0.0
    rows: int = 0
    runs: int = 0
    input_s: float = 0.0
    compute_s: float = 0.0
    output_s: float = 0.0
    last_ms: int = 0
    by_rows: Counter[int] = field(default_factory=Counter)
    seconds_by_rows: dict[int, tuple[float, float, float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """All fields, as another front end gets them."""
        return {**vars(self), "by_rows": dict(self.by_rows)}

    def add(self, other: ModelStatisticsCounters) -> None:
        """Add what another front end has counted."""
        for name in ("succeeded", "success_s", "failed", "fail_s", "queue_s", "rows", "runs", "input_s",
                     "compute_s", "output_s"):  # fmt: skip
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.last_ms = max(self.last_ms, other.last_ms)
        self.by_rows = self.by_rows + Counter(other.by_rows)
        for rows, seconds in other.seconds_by_rows.items():
            before = self.seconds_by_rows.get(rows, (0.0, 0.0, 0.0))
            a, b, c = (one + more for one, more in zip(before, seconds, strict=True))
            self.seconds_by_rows[rows] = (a, b, c)

    def add_run(self, run: messages.Run) -> None:
        self.runs += 1
        self.rows += run.rows
        self.input_s += run.input_s
        self.compute_s += run.compute_s
        self.output_s += run.output_s
        self.by_rows[run.rows] += 1
        a, b, c = self.seconds_by_rows.get(run.rows, (0.0, 0.0, 0.0))
        self.seconds_by_rows[run.rows] = (a + run.input_s, b + run.compute_s, c + run.output_s)

    def add_end(self, event: messages.Event, seconds: float) -> None:
        self.queue_s += event.timings.queue_s
        self.last_ms = int(time.time() * 1000)
        if event.error is None:
            self.succeeded += 1
            self.success_s += seconds
        else:
            self.failed += 1
            self.fail_s += seconds


@dataclass(eq=False)
class ServedModel:
    """A READY model version: its spec, admission controller, meters and statistics."""

    spec: ModelSpec
    admission: AdmissionController
    meters: ModelMeters
    request_log: RequestLog = field(default_factory=RequestLog)
    statistics: ModelStatisticsCounters = field(default_factory=ModelStatisticsCounters)
    vocabulary: OpenVocabulary | None = None  # None: the model has no tokenizer
    load_s: float = 0.0
    load: int = 0  # its number, by which the engine names it
    sequence_counts: messages.SequenceCounts = _NO_SEQUENCES
    state_bytes: int = 0
    step_costs: dict[int, float] = field(default_factory=dict)
    """Learned seconds of a step, by its rows rounded up to a power of two."""
    sequences: OrderedDict[messages.SequenceId, None] = field(default_factory=OrderedDict)
    """Ids of the sequences that callers drive here, the last used last. A superset: evicted ones stay."""

    @property
    def slots(self) -> int:
        """The most sequences alive at one time; 0 for a one-shot model."""
        stepwise = self.spec.manifest.stepwise
        return stepwise.max_sequences if self.spec.is_stepwise and stepwise else 0

    def step_sent(self, step: messages.Step) -> None:
        """Note that a sequence is live here, unless its id is the server's own."""
        is_own = isinstance(step.sequence, tuple) and not step.sequence[0]
        if not is_own and (step.start or step.sequence in self.sequences):
            self.sequence_put(step.sequence)

    def sequence_put(self, sequence: messages.SequenceId) -> None:
        """Note that a sequence of a caller's is live here."""
        self.sequences[sequence] = None
        self.sequences.move_to_end(sequence)
        if len(self.sequences) > _SEQUENCES_PER_SLOT * self.slots:
            self.sequences.popitem(last=False)  # evicted by the engine long before one that is used

    def step_ended(self, step: messages.Step, error: ServingError | None) -> None:
        """Note that a sequence has ended, if this step was its last or shows that it has."""
        failed_start = step.start and error is not None
        if step.end or failed_start or (error is not None and error.code is ErrorCode.SEQUENCE_LOST):
            self.sequences.pop(step.sequence, None)

    def record_refusal(
        self, method: str, error: ServingError, requests: int = 1, caller: Caller | None = None
    ) -> None:
        """Count all `requests` as refused, and log one line for them. `caller` is that of this task if not
        given."""
        account = (caller or current.get()).account
        self.meters.record_refused(method, error.code.value, requests, account)
        self.request_log.refused(self.spec.model, str(self.spec.version), method, error)

    def record_runs(self, events: messages.Events) -> None:
        """Add the runs of an engine update to the metrics and the statistics."""
        if events.sequences is not None:
            self.sequence_counts, self.state_bytes = events.sequences, events.state_bytes
        for run in events.runs:
            if run.mode == "stepwise":
                self._learn_step(run)
            self.statistics.add_run(run)
            self.meters.record_run(run.mode, run.rows, run.compute_s)
            self.meters.elements.value += run.elements
            self.meters.padded.value += run.padded_elements
            self.meters.device_wait.observe(run.device_wait_s)

    def _learn_step(self, run: messages.Run) -> None:
        rows = 1 << (run.rows - 1).bit_length()
        known = self.step_costs.get(rows, run.compute_s)
        self.step_costs[rows] = known + _LEARNING_RATE * (run.compute_s - known)

    def record_end(self, event: messages.Event, seconds: float) -> None:
        self.statistics.add_end(event, seconds)
        if event.timings.steps:
            self.meters.record_timings(event.timings.queue_s, event.timings.compute_s, event.length)
