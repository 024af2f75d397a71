"""What a run sends and how: plain data that is passed to the worker processes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from lockstep_load.arrivals import ArrivalProcess
    from lockstep_load.lengths import Lengths
    from lockstep_load.tensors import TensorInput

CallKind = Literal["classify", "encode", "generate", "translate", "follow", "infer", "steps"]
"""An RPC; `steps` is ModelInfer with a sequence_id, one call per element."""

CALL_KINDS: tuple[CallKind, ...] = get_args(CallKind)


@dataclass(frozen=True)
class Target:
    """The server and model that are measured."""

    address: str
    model: str
    version: str = ""
    timeout_s: float = 10.0
    """Deadline of each request, from when it is sent."""
    tls: str = ""
    """Empty for plaintext; `system` or a CA certificate file for TLS."""
    tls_cert: str = ""
    tls_key: str = ""
    """Files of the client's certificate and its key; empty for none."""
    token: str = field(default="", repr=False)
    """Bearer token; empty for none."""
    metrics_token: str = field(default="", repr=False)
    """Bearer token for the server's metrics; empty for none."""


@dataclass(frozen=True)
class Workload:
    """The requests that are sent."""

    call: CallKind
    lengths: Lengths
    ids: tuple[int, int] | None = None
    """Range of token ids, end excluded; None to send texts if the call takes texts."""
    rows: int = 1
    """Sequences per request, for calls that take several."""
    tokens: Lengths | None = None
    """Maximum number of tokens of each Generate or Translate; None for the model's limit."""
    inputs: tuple[TensorInput, ...] = ()
    """Input tensors of `infer` and `steps`."""
    one_by_one: bool = False
    """For `follow` with ids: send each id after the reply to the previous one."""


@dataclass(frozen=True)
class OpenLoop:
    """Requests are due at scheduled times, whether or not earlier ones have been answered."""

    rate: float
    """Requests per second, all processes together."""
    arrivals: ArrivalProcess = "poisson"


@dataclass(frozen=True)
class ClosedLoop:
    """A fixed number of callers; each sends its next request when the previous one has been answered."""

    concurrency: int


@dataclass(frozen=True)
class Offline:
    """A fixed number of requests, all available at the start; measured until the last answer."""

    samples: int
    concurrency: int


LoadPattern = OpenLoop | ClosedLoop | Offline


@dataclass(frozen=True)
class LoadProfile:
    """How requests are sent, and for how long."""

    pattern: LoadPattern
    seconds: float
    warmup_s: float = 1.0
    """Seconds of the same load before the measured part, excluded from all results."""
    seed: int = 0
    processes: int = 1
    max_in_flight: int = 10_000
    """Maximum of all processes together; it bounds the memory of an open loop on a slow server."""


@dataclass(frozen=True)
class LoadShare:
    """The part of a load that one process sends."""

    load: LoadProfile
    index: int = 0

    @property
    def concurrency(self) -> int:
        """Number of callers in this process; 0 in an open loop."""
        pattern = self.load.pattern
        if isinstance(pattern, OpenLoop):
            return 0
        return _share_of(pattern.concurrency, self.index, self.load.processes)

    @property
    def samples(self) -> int | None:
        """Number of requests this process sends; None if only time limits it."""
        pattern = self.load.pattern
        if isinstance(pattern, Offline):
            return _share_of(pattern.samples, self.index, self.load.processes)
        return None

    @property
    def max_in_flight(self) -> int:
        return max(1, self.load.max_in_flight // self.load.processes)


@dataclass(frozen=True)
class WorkerJob:
    """The part of a run that one worker process does."""

    target: Target
    workload: Workload
    load: LoadProfile
    index: int = 0

    @property
    def share(self) -> LoadShare:
        return LoadShare(self.load, self.index)


def worker_jobs(target: Target, workload: Workload, load: LoadProfile) -> list[WorkerJob]:
    """One job per process, with no more processes than callers."""
    if not isinstance(load.pattern, OpenLoop):
        load = replace(load, processes=min(load.processes, load.pattern.concurrency))
    return [WorkerJob(target, workload, load, index) for index in range(load.processes)]


def _share_of(all_of_them: int, index: int, of: int) -> int:
    return all_of_them // of + (index < all_of_them % of)
