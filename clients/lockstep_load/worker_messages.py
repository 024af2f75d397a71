"""What a generator process tells of its requests: one record each, packed, in batches of a fifth of a second.

The process only notes; histograms are made where the batches arrive (ledger.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lockstep_load.outcome import RequestOutcome

RECORD = np.dtype(
    [
        ("due", "f8"),  # seconds after the start of the measured part; before it, negative
        ("lag", "f4"),  # from due to sent, seconds
        ("took", "f4"),  # from due to the end
        ("first", "f4"),  # from due to the first token; NaN where there was none
        ("per_token", "f4"),  # the mean time between tokens after the first; NaN where there were no two
        ("length", "u4"),
        ("tokens", "u4"),
        ("outcome", "u1"),
    ]
)


@dataclass(frozen=True)
class RecordBatch:
    """What happened since the last batch."""

    index: int
    """The process."""
    at_s: float
    records: bytes
    """RECORDs."""
    gaps: bytes
    """float32 seconds between two messages of a stream, of the measured part."""
    tokens: dict[int, int]
    """Made in each second of the measured part."""
    in_flight: int
    cpu_s: float
    """Of the process, since the measured part began."""
    examples: dict[RequestOutcome, str]
    """What the server said, the first time that something ended so."""


@dataclass(frozen=True)
class WorkerReady:
    """The process has its requests and a connection, or gave up waiting for one."""

    index: int


@dataclass(frozen=True)
class WorkerDone:
    """Everything that was sent has ended; the last batch is sent."""

    index: int
    unsent: int
    """Due in the measured part and never sent."""
    capped: bool
    """Requests waited because too many were in flight."""
    cpu_s: float
    wall_s: float
    """Of the measured part, as far as it came."""


@dataclass(frozen=True)
class WorkerFailed:
    """The process cannot go on."""

    index: int
    error: str


@dataclass
class RecordLog:
    """Records since the last batch."""

    records: list[tuple[float, float, float, float, float, int, int, int]] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    tokens: dict[int, int] = field(default_factory=dict)
    examples: dict[RequestOutcome, str] = field(default_factory=dict)
    known: set[RequestOutcome] = field(default_factory=set)

    def count_tokens(self, at_s: float, tokens: int) -> None:
        """Tokens came, so many seconds after the start."""
        if at_s >= 0:
            second = int(at_s)
            self.tokens[second] = self.tokens.get(second, 0) + tokens

    def add_example(self, outcome: RequestOutcome, why: str) -> None:
        """What the server said; the first of each kind is kept."""
        if outcome not in self.known:
            self.known.add(outcome)
            self.examples[outcome] = why

    def batch(self, index: int, at_s: float, in_flight: int, cpu_s: float) -> RecordBatch:
        """All of it, and begin anew."""
        made = RecordBatch(
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
        return made
