"""The seam between the gRPC side and the engines: plain data, fit to cross a process.

In go `Submit`, `Cancel`, `Credit`, `Load` and `Unload`; out comes one `Events` for each batch or
step, and a `ModelUpdate` whenever a model changes its state. Times are seconds of
`time.monotonic()`, which all processes of one machine share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .errors import ServingError
    from .models.card import Card
    from .models.datatypes import Arrays
    from .models.measure import Measure


class Submit(NamedTuple):
    """One request. Answered by exactly one `Event` with the same key, or ended by a `Cancel`."""

    key: int  # unique for the sender, for ever
    model: str
    version: int
    inputs: Arrays  # as the client sent them, checked against the card; empty when there is text
    text: str | None = None
    field: str = ""  # what the caller calls this input, for error messages
    outputs: tuple[str, ...] = ()  # the outputs wanted; none means all
    tokens: bool = False  # return the text's tokens too
    priority: int = 0  # larger is sooner
    accepted: float = 0.0
    deadline: float | None = None  # no run starts after it
    caller: str = ""  # who shares the queue fairly with the other callers
    measure: Measure | None = None  # of the inputs; None where they are text
    parameters: Mapping[str, Any] = {}  # how a sequence is to be sampled, continued, ended


class Cancel(NamedTuple):
    """The caller has left. The request is skipped if it still waits, else its answer is dropped."""

    key: int


class Credit(NamedTuple):
    """The reader took `n` messages of a stream: flow control for step-wise answers."""

    key: int
    n: int


class Load(NamedTuple):
    """(Re)load a model from the repository."""

    model: str


class Unload(NamedTuple):
    """Stop serving a model once what it holds has ended."""

    model: str


Message = Submit | Cancel | Credit | Load | Unload


class Timings(NamedTuple):
    """Where the time of an answer went, in seconds."""

    queue_s: float  # accepted -> its first run starts
    compute_s: float  # the whole of the runs it took part in
    steps: int = 1
    rows: float = 1.0  # rows in those runs, the mean


NO_TIMINGS = Timings(0.0, 0.0, 0, 0.0)


class Event(NamedTuple):
    """What became of a request: outputs, or tokens, or an error."""

    key: int
    outputs: Arrays | None
    error: ServingError | None = None
    timings: Timings = NO_TIMINGS
    length: int = 0  # elements that the model read
    tokens: tuple[str, ...] = ()


class Run(NamedTuple):
    """One run of a session, for the metrics, the statistics and the admission's cost model."""

    rows: int
    length: int  # longest, summed over the named lengths
    elements: int  # real ones
    padded_elements: int  # what the run paid for: rows x longest
    input_s: float  # padding and stacking
    compute_s: float  # the session
    output_s: float  # cutting back
    gate_wait_s: float


class Events(NamedTuple):
    """All that one batch or step has to say, in one crossing."""

    model: str
    version: int
    events: list[Event]
    runs: tuple[Run, ...] = ()


class ModelUpdate(NamedTuple):
    """A model's state, told after it is true. `card` and `costs` are there once it is ready."""

    model: str
    version: int
    state: str  # of models/catalog.py's State
    reason: str = ""
    card: Card | None = None
    costs: Mapping[str, Any] | None = None


class LoadDone(NamedTuple):
    """A Load or Unload has ended; `reason` is empty when it went well."""

    model: str
    verb: str
    reason: str = ""


News = Events | ModelUpdate | LoadDone


@dataclass(frozen=True)
class HostConfig:
    """What the engines' side needs to know; crosses a process as it is."""

    models: str
    device: str = "auto"
    cache: str = ""
    batching: bool = True
    max_run_s: float = 0.020
    tokenizer_workers: int = 1
    selected: tuple[str, ...] = field(default=())


class Host(Protocol):
    """The engines' side of the port."""

    def start(self, report: Callable[[News], None]) -> None:
        """Begin to load. `report` is called from the host's own threads."""

    def receive(self, messages: Sequence[Message]) -> None:
        """Take messages in, in order; never blocks, never raises for what is in a message."""

    def stop(self, within_s: float) -> None:
        """End what runs, fail what waits, join the threads."""
