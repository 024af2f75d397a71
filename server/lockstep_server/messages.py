"""The seam between the gRPC side and the engines: plain data, fit to cross a process.

In go `Submit`, `Read`, `Cancel`, `Credit`, `Leave`, `Pace`, `Inquire`, `Load` and `Unload`; out comes
one `Events` for each batch or step, and a `ModelUpdate` whenever a model changes its state. Times
are seconds of `time.monotonic()`, which all processes of one machine share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .errors import ServingError
    from .model.datatypes import Arrays
    from .model.sizes import RequestSize
    from .model.spec import ModelSpec


class Decode(NamedTuple):
    """How an autoregressive sequence goes on: the server chooses each element and feeds it back."""

    max_tokens: int | None = None  # none: the model's own limit
    temperature: float = 1.0  # 0: greedy
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    log_probabilities: bool = False
    attention: bool = False  # each token's row of attention, and the pieces of text


class Feed(NamedTuple):
    """One step of a fed sequence: the caller sends each element."""

    sequence: SequenceId
    start: bool = False  # a live sequence of this id ends, and a new one begins
    end: bool = False  # the sequence ends after this step


SequenceId = int | str | tuple[str, int]
"""As callers give it; a pair for those that the server gives itself."""


class Submit(NamedTuple):
    """One request. Answered by exactly one `Event` with the same key, or ended by a `Cancel`.

    An autoregressive one gets `Chunk`s before its event.
    """

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
    measure: RequestSize | None = None  # of the inputs; None where they are text
    how: Decode | Feed | None = None  # none: one-shot


class Tokenize(NamedTuple):
    """Turn text into ids and tokens, or ids into tokens. Answered as a `Submit` is: ids in the outputs."""

    key: int
    model: str
    version: int
    text: str | None
    ids: tuple[int, ...] = ()
    field: str = ""


class Cancel(NamedTuple):
    """The caller has left. The request is skipped if it still waits, else its answer is dropped."""

    key: int


class Credit(NamedTuple):
    """The reader took `n` chunks of a stream: flow control for step-wise answers."""

    key: int
    n: int


class EndSequence(NamedTuple):
    """The caller of a fed sequence has gone: its slot is free."""

    model: str
    version: int
    sequence: SequenceId


class SetFlushInterval(NamedTuple):
    """How long chunks may be held back, in seconds; 0: not at all."""

    flush_s: float


class GetEngineStats(NamedTuple):
    """How is the process? Answered by `Vitals`."""


class Load(NamedTuple):
    """(Re)load a model from the repository."""

    model: str


class Unload(NamedTuple):
    """Stop serving a model once what it holds has ended."""

    model: str


Message = (
    Submit | Tokenize | Cancel | Credit | EndSequence | SetFlushInterval | GetEngineStats | Load | Unload
)


class SendPolicy(Enum):
    """When a message crosses to the host, with those that were sent before it."""

    NOW = "now"
    TURN = "turn"  # at the end of this turn of the event loop, which may be milliseconds away
    COALESCE = "coalesce"  # once the loop has read what there is; in bounded time


STREAM_CREDITS = 32
"""Chunks that a stream may have on their way to its reader."""


class RequestTimings(NamedTuple):
    """Where the time of an answer went, in seconds."""

    queue_s: float  # accepted -> its first run starts
    compute_s: float  # the whole of the runs it took part in
    steps: int = 1
    rows: float = 1.0  # rows in those runs, the mean
    prefill_s: float = 0.0  # the run that took the prompt or the source in
    first_token_s: float = 0.0  # accepted -> the first token


NO_TIMINGS = RequestTimings(0.0, 0.0, 0, 0.0)


class Event(NamedTuple):
    """What became of a request: outputs, or an error. Nothing comes after it."""

    key: int
    outputs: Arrays | None
    error: ServingError | None = None
    timings: RequestTimings = NO_TIMINGS
    length: int = 0  # elements that the model read, or made
    tokens: tuple[str, ...] = ()
    reason: str = ""  # why a decoding ended: "end", "length" or "stop"


class Chunk(NamedTuple):
    """Every token of one stream that was ready."""

    key: int
    ids: Sequence[int]
    text: str
    log_probabilities: Sequence[float] = ()
    attention: Sequence[Any] = ()  # a row of weights for each token
    pieces: tuple[str, ...] = ()
    source: tuple[str, ...] = ()  # what the attention is over; in the first chunk


class Run(NamedTuple):
    """One run of a session, for the metrics, the statistics and the admission's cost model."""

    rows: int
    length: int  # longest, summed over the named lengths
    elements: int  # real ones
    padded_elements: int  # what the run paid for: rows x longest
    input_s: float  # padding and stacking
    compute_s: float  # the session
    output_s: float  # cutting back
    device_wait_s: float
    mode: str = "oneshot"  # or "stepwise", or "prefill"


class SequenceCounts(NamedTuple):
    """The sequences of a step-wise model."""

    running: int
    waiting: int
    idle: int  # fed ones between two elements, and those whose reader has stopped


class Events(NamedTuple):
    """All that one batch or step has to say, in one crossing. Chunks come before events."""

    model: str
    version: int
    events: Sequence[Event]
    runs: Sequence[Run] = ()
    chunks: Sequence[Chunk] = ()
    sequences: SequenceCounts | None = None
    sent: float = 0.0  # when the engine did; 0: it has not said


class ModelUpdate(NamedTuple):
    """A model's state, told after it is true. `card` and `costs` are there once it is ready."""

    model: str
    version: int
    state: str  # of models/catalog.py's State
    reason: str = ""
    spec: ModelSpec | None = None
    costs: Mapping[str, Any] | None = None
    load_s: float = 0.0  # how long the loading took


class LoadDone(NamedTuple):
    """A Load or Unload has ended; `reason` is empty when it went well."""

    model: str
    verb: str
    reason: str = ""


class EngineStats(NamedTuple):
    """How the engines' process is."""

    garbage: Sequence[Mapping[str, int]]  # `gc.get_stats()`: a mapping for each generation


EngineUpdate = Events | ModelUpdate | LoadDone | EngineStats


class EngineInfo(NamedTuple):
    """What a host is."""

    device: str  # "cpu" or "cuda"
    runtime: str  # ONNX Runtime's version
    leases: int  # runs at one time from which the device gains


@dataclass(frozen=True)
class EngineConfig:
    """What the engines' side needs to know; crosses a process as it is."""

    models: str
    device: str = "auto"
    cache: str = ""
    batching: bool = True
    max_run_s: float = 0.020
    tokenizer_workers: int = 1
    selected: tuple[str, ...] = field(default=())
    stalled_s: float = 30.0  # a stream whose reader takes nothing for this long is ended
    niceness: int = 0  # of the threads of one-shot models


class Engine(Protocol):
    """The engines' side of the port."""

    info: EngineInfo

    def start(self, report: Callable[[EngineUpdate], None]) -> None:
        """Begin to load. `report` is called from the host's own threads."""

    def receive(self, messages: Sequence[Message]) -> None:
        """Take messages in, in order; never blocks, never raises for what is in a message."""

    def stop(self, within_s: float) -> None:
        """End what runs, fail what waits, join the threads."""
