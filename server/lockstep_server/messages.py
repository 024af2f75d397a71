"""The messages between the front end and the engine: plain data that can be sent to another process.

front end → engine: `Message`, which is `Submit`, `Tokenize`, `Cancel`, `Credit`, `EndSequence`,
`SetFlushInterval`, `GetEngineStats`, `Load` or `Unload`.
engine → front end: `EngineUpdate`, which is one `Events` per batch or step, a `ModelUpdate` when a model
changes state, `LoadDone`, or `EngineStats`.

Times are seconds of `time.monotonic()`, which all processes of a machine share.
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
    """Sampling parameters of a generation request: the server samples each token and feeds it back."""

    max_tokens: int | None = None  # None: the model's limit
    temperature: float = 1.0  # 0: greedy
    top_k: int = 0  # 0: off
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    log_probabilities: bool = False
    attention: bool = False  # return each token's attention row and text


class Feed(NamedTuple):
    """One step of a client-driven sequence: the caller sends each element."""

    sequence: SequenceId
    start: bool = False  # begin a new sequence; a live one with this id ends
    end: bool = False  # end the sequence after this step


SequenceId = int | str | tuple[str, int]
"""A caller's sequence id; a pair if the server assigned it."""


class Submit(NamedTuple):
    """One inference request. It ends with exactly one `Event` of the same key, unless a `Cancel` ends it.

    A generation request gets `Chunk`s before its event.
    """

    key: int  # never reused by the sender
    model: str
    version: int
    inputs: Arrays  # from the client, checked against the spec; empty if `text` is set
    text: str | None = None
    field: str = ""  # the caller's name for this input, used in error messages
    outputs: tuple[str, ...] = ()  # names of the requested outputs; empty: all
    tokens: bool = False  # return the tokens of `text` too
    priority: int = 0  # larger runs sooner
    accepted: float = 0.0  # when the front end accepted it
    deadline: float | None = None  # no run starts after it
    caller: str = ""  # fair queueing is between callers
    measure: RequestSize | None = None  # size of `inputs`; None for text
    how: Decode | Feed | None = None  # None: one-shot


class Tokenize(NamedTuple):
    """Convert text to ids and tokens, or ids to tokens. The `Event` has the ids as output "ids"."""

    key: int
    model: str
    version: int
    text: str | None  # None: convert `ids`
    ids: tuple[int, ...] = ()
    field: str = ""


class Cancel(NamedTuple):
    """Skip the request if it is still queued; otherwise drop its answer. It gets no event."""

    key: int


class Credit(NamedTuple):
    """The reader took `n` chunks of a stream (flow control)."""

    key: int
    n: int


class EndSequence(NamedTuple):
    """End a client-driven sequence and free its slot, because its caller has disconnected."""

    model: str
    version: int
    sequence: SequenceId


class SetFlushInterval(NamedTuple):
    """Set the maximum time in seconds for which chunks may be held back; 0 sends each at once."""

    flush_s: float


class GetEngineStats(NamedTuple):
    """Get the statistics of the engine process. Answered by `EngineStats`."""


class Load(NamedTuple):
    """Load or reload all versions of a model from the repository. Answered by `LoadDone`."""

    model: str


class Unload(NamedTuple):
    """Stop serving a model after its queued and running requests have ended. Answered by `LoadDone`."""

    model: str


Message = (
    Submit | Tokenize | Cancel | Credit | EndSequence | SetFlushInterval | GetEngineStats | Load | Unload
)


class SendPolicy(Enum):
    """When a message is sent to the engine, together with all messages queued before it."""

    NOW = "now"
    TURN = "turn"  # at the end of this turn of the event loop, which may take milliseconds
    COALESCE = "coalesce"  # when the loop has no more input to read; after 4 ms at the latest


STREAM_CREDITS = 32
"""Initial credit of a stream: the most chunks in transit to its reader."""


class RequestTimings(NamedTuple):
    """How the time of a request was spent."""

    queue_s: float  # accepted → start of its first run
    compute_s: float  # total duration of the runs that it was part of
    steps: int = 1  # number of those runs
    rows: float = 1.0  # mean number of rows of those runs
    prefill_s: float = 0.0  # duration of the prefill run
    first_token_s: float = 0.0  # accepted → first token


NO_TIMINGS = RequestTimings(0.0, 0.0, 0, 0.0)


class Event(NamedTuple):
    """The final result of a request: outputs or an error."""

    key: int
    outputs: Arrays | None
    error: ServingError | None = None
    timings: RequestTimings = NO_TIMINGS
    length: int = 0  # number of elements read by the model, or tokens generated
    tokens: tuple[str, ...] = ()
    reason: str = ""  # finish reason of a generation request: "end", "length" or "stop"


class Chunk(NamedTuple):
    """The tokens of one stream that are ready to send."""

    key: int
    ids: Sequence[int]
    text: str
    log_probabilities: Sequence[float] = ()
    attention: Sequence[Any] = ()  # one row of weights per token
    pieces: tuple[str, ...] = ()  # the text of each token, if attention was requested
    source: tuple[str, ...] = ()  # the tokens that attention is over; only in the first chunk


class Run(NamedTuple):
    """One run of a session, for metrics, statistics and the cost model of admission control."""

    rows: int
    length: int  # padded elements per row, summed over the named lengths
    elements: int  # without padding
    padded_elements: int  # rows x length
    input_s: float  # padding and stacking
    compute_s: float  # in the session
    output_s: float  # splitting the outputs by request
    device_wait_s: float  # waiting for the device lease
    mode: str = "oneshot"  # or "stepwise" or "prefill"


class SequenceCounts(NamedTuple):
    """Number of sequences of a step-wise model, by state."""

    running: int
    waiting: int
    idle: int  # client-driven ones between two steps, and streams without credit


class Events(NamedTuple):
    """All results of one batch or step, sent as one message. Process `chunks` before `events`."""

    model: str
    version: int
    events: Sequence[Event]
    runs: Sequence[Run] = ()
    chunks: Sequence[Chunk] = ()
    sequences: SequenceCounts | None = None
    sent: float = 0.0  # when the engine sent it; 0: unknown


class ModelUpdate(NamedTuple):
    """A model's new state, sent after the change took effect."""

    model: str
    version: int
    state: str  # the name of a frontend.versions.VersionState
    reason: str = ""
    spec: ModelSpec | None = None  # only if READY
    costs: Mapping[str, Any] | None = None  # `CostModel.to_dict`; only if READY and one-shot
    load_s: float = 0.0  # duration of loading


class LoadDone(NamedTuple):
    """The result of a `Load` or `Unload`."""

    model: str
    verb: str  # "load" or "unload"
    reason: str = ""  # why it failed; empty: it succeeded


class EngineStats(NamedTuple):
    """Statistics of the engine process."""

    garbage: Sequence[Mapping[str, int]]  # `gc.get_stats()`: one mapping per generation


EngineUpdate = Events | ModelUpdate | LoadDone | EngineStats


class EngineInfo(NamedTuple):
    """Properties of an engine that are fixed when it starts."""

    device: str  # "cpu" or "cuda"
    runtime: str  # version of ONNX Runtime
    leases: int  # number of device leases: the most runs at a time


@dataclass(frozen=True)
class EngineConfig:
    """Configuration of the engine, sent to its process at startup."""

    models: str  # path of the model repository
    device: str = "auto"
    cache: str = ""  # folder for measured costs and self-test results; empty: none
    batching: bool = True
    max_run_s: float = 0.020  # bound on a run while several models use the device
    tokenizer_workers: int = 1
    selected: tuple[str, ...] = field(default=())  # names of the models to load; empty: all
    stalled_s: float = 30.0  # timeout of a stream whose reader takes nothing
    niceness: int = 0  # nice value of the threads of one-shot engines


class Engine(Protocol):
    """An engine as the transports in ipc/ use it; `engine.models.LoadedModels` implements it."""

    info: EngineInfo

    def start(self, report: Callable[[EngineUpdate], None]) -> None:
        """Start loading the models. `report` is called from the engine's threads."""

    def receive(self, messages: Sequence[Message]) -> None:
        """Handle messages in order. Never blocks; never raises because of a message's content."""

    def stop(self, within_s: float) -> None:
        """Finish or fail all requests within `within_s` seconds, then join the threads."""
