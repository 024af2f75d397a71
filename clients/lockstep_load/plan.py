"""What is to be done, as plain data that crosses to the generator processes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from lockstep_load.arrivals import ArrivalProcess
    from lockstep_load.lengths import Lengths
    from lockstep_load.tensors import TensorInput

CallKind = Literal["classify", "encode", "generate", "translate", "follow", "infer", "steps"]
"""An RPC, but for `steps`: a sequence by ModelInfer, one call for each element."""

CALL_KINDS: tuple[CallKind, ...] = get_args(CallKind)
STREAMS: tuple[CallKind, ...] = ("generate", "translate", "follow", "steps")
"""Those that answer bit by bit: they have a time to the first token."""


@dataclass(frozen=True)
class Target:
    """Who is asked."""

    address: str
    model: str
    version: str = ""
    timeout_s: float = 10.0
    """Of each request, from its sending."""
    tls: str = ""
    """Empty: plain text. `system`, or a file of certificates: encrypted, and whom to trust."""
    token: str = field(default="", repr=False)
    """Sent as a bearer token, if not empty."""


@dataclass(frozen=True)
class Workload:
    """What is asked."""

    kind: CallKind
    lengths: Lengths
    ids: tuple[int, int] | None = None
    """Token ids from the first up to below the second; None: texts, where the call takes texts."""
    rows: int = 1
    """Sequences in a request, where the call takes several."""
    tokens: Lengths | None = None
    """Tokens to make at most, for each Generate or Translate; None: the model's own limit."""
    inputs: tuple[TensorInput, ...] = ()
    """Of `infer` and `steps`."""
    one_by_one: bool = False
    """Of `follow` with ids: each in a message of its own, sent when the one before is answered."""


@dataclass(frozen=True)
class OpenLoop:
    """Requests are due at their times, whatever became of those before them."""

    rate: float
    """A second, of all processes together."""
    arrivals: ArrivalProcess = "poisson"


@dataclass(frozen=True)
class ClosedLoop:
    """So many callers; each sends its next request when it has the answer to its last."""

    concurrency: int


@dataclass(frozen=True)
class Offline:
    """So many requests, all known at the start, so many in flight; measured until the last answer."""

    samples: int
    concurrency: int


LoadPattern = OpenLoop | ClosedLoop | Offline


@dataclass(frozen=True)
class LoadProfile:
    """How it is asked, and for how long."""

    pattern: LoadPattern
    seconds: float
    warmup_s: float = 1.0
    """The same load before, left out of all numbers."""
    seed: int = 0
    processes: int = 1
    max_in_flight: int = 10_000
    """Of all processes together: past it an open loop would only fill this machine's memory."""


@dataclass(frozen=True)
class WorkerJob:
    """The share of one generator process."""

    target: Target
    workload: Workload
    load: LoadProfile
    index: int = 0

    @property
    def concurrency(self) -> int:
        """Of the concurrency."""
        pattern = self.load.pattern
        if isinstance(pattern, OpenLoop):
            return 0
        return _share_of(pattern.concurrency, self.index, self.load.processes)

    @property
    def samples(self) -> int | None:
        """Requests to send in all; None: as many as there is time for."""
        pattern = self.load.pattern
        if isinstance(pattern, Offline):
            return _share_of(pattern.samples, self.index, self.load.processes)
        return None

    @property
    def max_in_flight(self) -> int:
        return max(1, self.load.max_in_flight // self.load.processes)


def worker_jobs(target: Target, workload: Workload, load: LoadProfile) -> list[WorkerJob]:
    """One for each process; never more processes than callers."""
    if not isinstance(load.pattern, OpenLoop):
        load = replace(load, processes=min(load.processes, load.pattern.concurrency))
    return [WorkerJob(target, workload, load, index) for index in range(load.processes)]


def _share_of(all_of_them: int, index: int, of: int) -> int:
    return all_of_them // of + (index < all_of_them % of)
