"""Messages from worker processes to the parent: one packed record per request, in batches every 0.2 s.

A worker only records (`RecordLog`); the parent builds the histograms (counts.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lockstep_load.outcome import RequestOutcome

RECORD = np.dtype(
    [
        ("due", "f8"),  # seconds after the start of the measured part; negative in the warm-up
        ("lag", "f4"),  # seconds from due to sent
        ("took", "f4"),  # seconds from due to the end
        ("first", "f4"),  # seconds from due to the first token; NaN without tokens
        ("per_token", "f4"),  # mean seconds between tokens; NaN with fewer than two
        ("length", "u4"),
        ("tokens", "u4"),
        ("outcome", "u1"),
    ]
)


@dataclass(frozen=True)
class RecordBatch:
    """The requests that ended since the previous batch."""

    index: int
    """Index of the worker."""
    at_s: float
    records: bytes
    """An array of RECORD."""
    gaps: bytes
    """A float32 array: seconds between two messages of a stream, in the measured part."""
    tokens: dict[int, int]
    """Tokens received in each second of the measured part."""
    in_flight: int
    cpu_s: float
    """CPU time of the worker since the measured part began."""
    examples: dict[RequestOutcome, str]
    """The server's message for the first request with each outcome."""


@dataclass(frozen=True)
class WorkerReady:
    """The worker has prepared its requests and a connection, or has stopped waiting for one."""

    index: int


@dataclass(frozen=True)
class WorkerDone:
    """All requests of the run have ended, and the last batch has been sent."""

    index: int
    unsent: int
    """Requests due in the measured part that were never sent."""
    capped: bool
    """Whether requests were delayed by the limit of requests in flight."""
    cpu_s: float
    wall_s: float
    """Duration of the measured part."""


@dataclass(frozen=True)
class WorkerFailed:
    """The worker cannot continue."""

    index: int
    error: str


@dataclass
class RecordLog:
    """Records since the previous batch."""

    records: list[tuple[float, float, float, float, float, int, int, int]] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    tokens: dict[int, int] = field(default_factory=dict)
    examples: dict[RequestOutcome, str] = field(default_factory=dict)
    seen: set[RequestOutcome] = field(default_factory=set)

    def count_tokens(self, at_s: float, tokens: int) -> None:
        """Count tokens that arrived `at_s` seconds after the start of the measured part."""
        if at_s >= 0:
            second = int(at_s)
            self.tokens[second] = self.tokens.get(second, 0) + tokens

    def add_example(self, outcome: RequestOutcome, why: str) -> None:
        """Keep the server's message for the first request with this outcome."""
        if outcome not in self.seen:
            self.seen.add(outcome)
            self.examples[outcome] = why

    def batch(self, index: int, at_s: float, in_flight: int, cpu_s: float) -> RecordBatch:
        """Return everything recorded as a batch, and start a new one."""
        batch = RecordBatch(
            index,
            at_s,
            np.array(self.records, RECORD).tobytes(),
            np.array(self.gaps, np.float32).tobytes(),
            self.tokens,
            in_flight,
            cpu_s,
            self.examples,
        )
        self.records, self.gaps, self.tokens, self.examples = [], [], {}, {}
        return batch
