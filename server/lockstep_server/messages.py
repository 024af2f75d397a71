"""The messages between the front end and the engine: flat, typed data that can be sent to another process.

front end → engine: `Message`: `Infer`, `Generate`, `Step`, `Cancel`, `Credit`, `EndSequence`,
`SetFlushInterval`, `GetEngineStats`, `GetRuns`, `GetSequence`, `PutSequence`, `ThawSequence`,
`ListSequences`, `Load`, `Unload` or `Heartbeat`; with several front ends (`ipc/front_ends.py`), also
`FrontEndHello`, `LoadSeen`, `FindSequence` and `SequenceMoved`.
engine → front end: `EngineUpdate`: one `Events` per batch or step, a `ModelUpdate` when a model changes
state, `Costs` when the learned costs of a model have changed, `Verified`, `BatchingOff`, `ModelPaused`,
`LoadStarted`, `LoadStep`, `LoadDone`, `ModelStuck`, `EngineStats`, `RunRecords`, `SequenceAnswer`,
`SequenceList`, or the `Heartbeat` or `SequenceMoved` that was sent.

`ipc/frames.py` encodes them. Times are seconds of `time.monotonic()`, which all processes of a machine share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np

from .errors import ServingError
from .model.datatypes import Arrays
from .model.spec import ModelSpec, RequestSize

VERSION = 10
"""Increased when a message changes, so that two processes of different versions never misread each other."""

SequenceId = int | str | tuple[str, int | str]
"""A sequence id: as the caller sent it, or with the name of the authenticated caller that it belongs to. The
server's own ids have an empty name."""


FRONT_END_KEYS = 1 << 48
"""Each front end has a number, above 0 if there are several, and makes the keys from
`number * FRONT_END_KEYS` on. So no two front ends use the same key, and an answer finds its front end by
it."""


def front_end_of(key: int) -> int:
    return key // FRONT_END_KEYS


class _Struct(msgspec.Struct, array_like=True, gc=False):
    """Encoded as an array of its fields. Not changed once it is sent."""


class Infer(_Struct, tag="infer", kw_only=True):
    """One one-shot request. It ends with exactly one `Event` of the same key, unless a `Cancel` ends it."""

    key: int  # drawn at random, and not reused while it is in use: callers know it as the request id
    model: str
    version: int
    inputs: Arrays  # checked against the spec
    size: RequestSize  # of `inputs`
    outputs: tuple[str, ...] = ()  # names of the requested outputs; empty: all
    by_role: bool = False  # pool and normalise the named outputs, and fail if one is not finite
    field: str = ""  # the caller's name for this input, used in error messages
    priority: int = 0  # larger runs sooner
    accepted: float = 0.0  # when the front end accepted it
    deadline: float | None = None  # no run starts after it
    due: float | None = None  # no run that ends after it is of use: the call's own deadline
    caller: str = ""  # fair queueing is between callers


class Generate(_Struct, tag="generate", kw_only=True):
    """One generation request: the engine samples each token and feeds it back.

    It gets `Chunk`s, then ends as an `Infer` does.
    """

    key: int
    model: str
    version: int
    prompt: tuple[int, ...]  # ids; of a source, for a translator
    field: str = ""
    priority: int = 0
    accepted: float = 0.0
    deadline: float | None = None
    caller: str = ""
    max_tokens: int | None = None  # None: the model's limit
    temperature: float = 1.0  # 0: greedy
    top_k: int = 0  # 0: off
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    log_probabilities: bool = False
    repetition_penalty: float = 1.0  # divides positive scores of ids that were read or generated; 1: off
    presence_penalty: float = 0.0  # subtracted from the scores of ids that were generated
    no_repeat: int = 0  # no sequence of as many ids occurs twice; 0: off
    min_tokens: int = 0  # no end id before as many tokens
    logit_bias: tuple[tuple[int, float], ...] = ()  # ids, and what is added to their scores
    forbidden: tuple[int, ...] = ()  # ids that are not generated
    top: int = 0  # return so many of the most probable tokens at each place
    beams: int = 1  # of a beam search; 1: none
    length_penalty: float = 1.0
    early_stopping: bool = False
    attention: bool = False  # return each token's attention row and text
    max_slots: int = 0  # the most that its caller may have; 0: no limit
    received: tuple[int, ...] = ()  # tokens that its caller has from an earlier stream: go on after them
    resumes: SequenceId | None = None  # the sequence that was put to go on with it, if it is here

    @property
    def inspects_tokens(self) -> bool:
        """Each token must be looked at when it is made, not only when it is sent."""
        return bool(self.stop or self.log_probabilities or self.attention or self.top)


class Step(_Struct, tag="step", kw_only=True):
    """One step of a client-driven sequence: the caller sends each element. It ends as an `Infer` does."""

    key: int
    model: str
    version: int
    sequence: SequenceId
    inputs: Arrays
    start: bool = False  # begin a new sequence; a live one with this id ends
    prompt: bool = False  # the inputs are those of the prefill graph; only with `start`
    end: bool = False  # end the sequence after this step
    outputs: tuple[str, ...] = ()
    by_role: bool = False  # fail if one of the named outputs is not finite
    field: str = ""
    priority: int = 0
    accepted: float = 0.0
    deadline: float | None = None
    caller: str = ""
    max_slots: int = 0  # the most that its caller may have; 0: no limit


Request = Infer | Generate | Step


class SequenceState(_Struct, kw_only=True):
    """A live sequence between two of its steps."""

    states: Arrays  # of one row, by the names of the states
    caller: str = ""
    steps: int = 0  # so far, of a client-driven sequence
    generation: Generate | None = None  # the request of a text; None: the caller drives the sequence
    tokens: tuple[int, ...] = ()  # what the text has generated
    next: int = 0  # the input of its next step
    rest: tuple[int, ...] = ()  # ids of its prompt that are still to be stepped


class GetSequence(_Struct, tag="get_sequence", kw_only=True):
    """Copy the state of a sequence. Answered by the `SequenceAnswer` of its key."""

    key: int
    model: str = ""  # the name of the mode
    version: int = 0
    sequence: SequenceId | None = None  # of a client-driven sequence, or of one that was put
    stream: int = 0  # the key of a generation request, without a `sequence`
    freeze: bool = False  # run none of its steps until a `ThawSequence` of the same key comes


class PutSequence(_Struct, tag="put_sequence", kw_only=True):
    """Make a live sequence of a state. Answered by the `SequenceAnswer` of its key, without a state."""

    key: int
    model: str
    version: int
    sequence: SequenceId
    state: SequenceState
    max_slots: int = 0


class ThawSequence(_Struct, tag="thaw_sequence", kw_only=True):
    """End the freeze of a sequence: its waiting steps run, or it ends here and they get an error that says
    why."""

    key: int  # of the `GetSequence` that froze it
    moved_to: str = ""  # the address of the server that has it now
    resumes: str = ""  # its id there, if its caller does not know it
    lost: str = ""  # why it ends


class ListSequences(_Struct, tag="list_sequences"):
    """Which sequences are live? Answered by the `SequenceList` of its key."""

    key: int


class Cancel(_Struct, tag="cancel"):
    """Skip the request if it is still queued; otherwise drop its answer. It gets no event."""

    key: int


class Credit(_Struct, tag="credit"):
    """The reader took `n` chunks of a stream (flow control)."""

    key: int
    n: int


class EndSequence(_Struct, tag="end_sequence"):
    """End a client-driven sequence and free its slot, because its caller has disconnected."""

    model: str
    version: int
    sequence: SequenceId


class SetFlushInterval(_Struct, tag="set_flush_interval"):
    """Set the maximum time in seconds for which chunks may be held back; 0 sends each at once."""

    flush_s: float


class GetEngineStats(_Struct, tag="get_engine_stats"):
    """Request statistics of the engine process. Answered by `EngineStats`."""


class GetRuns(_Struct, tag="get_runs"):
    """Runs that the engine remembers. Answered by the `RunRecords` of its key."""

    key: int
    after: int  # only runs with a larger number
    model: str  # only runs of this model; "": of all
    most: int


class Load(_Struct, tag="load"):
    """Load or reload all versions of a model from the repository. Answered by the `LoadDone` of its key."""

    model: str
    key: int = 0


class Unload(_Struct, tag="unload"):
    """Stop serving a model after its queued and running requests have ended. Answered as a `Load` is."""

    model: str
    key: int = 0


class Heartbeat(_Struct, tag="heartbeat"):
    """The engine sends it back when it has handled all messages before it."""


class FrontEndHello(_Struct, tag="hello"):
    """The first message of one of several front ends. Answered by the updates that describe the models as
    they are now, and `EngineStarted`."""

    number: int


class LoadSeen(_Struct, tag="load_seen"):
    """A front end has processed the `LoadDone` of this key, which another one waits for."""

    key: int


class FindSequence(_Struct, tag="find_sequence"):
    """Where is a sequence that another front end may have started? Answered by the `SequenceFound` of its
    key."""

    key: int
    model: str  # the name of the step-wise form
    sequence: SequenceId


class SequenceMoved(_Struct, tag="sequence_moved"):
    """Another server has a sequence now. From the front end that has moved it to all others."""

    model: str  # the name of the mode
    version: int
    sequence: SequenceId
    moved_to: str  # as in `ThawSequence`
    resumes: str


Message = (
    Request
    | Cancel
    | Credit
    | EndSequence
    | SetFlushInterval
    | GetEngineStats
    | GetRuns
    | GetSequence
    | PutSequence
    | ThawSequence
    | ListSequences
    | Load
    | Unload
    | Heartbeat
    | FrontEndHello
    | LoadSeen
    | FindSequence
    | SequenceMoved
)


class SendPolicy(Enum):
    """When a message is sent to the engine, together with all messages queued before it."""

    NOW = "now"  # a run may begin with it at once
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


class TopTokens(NamedTuple):
    """The most probable tokens at one place of a text, best first."""

    ids: list[int]
    log_probabilities: list[float]
    texts: tuple[str, ...] = ()


class Alternative(NamedTuple):
    """One of the texts of a beam search."""

    ids: list[int]
    text: str
    score: float
    reason: str


class Event(_Struct, kw_only=True, gc=True):
    """The final result of a request: outputs or an error. Collected, as an error that is raised refers to the
    frames that hold its event."""

    key: int
    outputs: Arrays | None = None
    error: ServingError | None = None
    timings: RequestTimings = NO_TIMINGS
    length: int = 0  # number of elements read by the model, or tokens generated
    reason: str = ""  # finish reason of a generation request: "end", "length" or "stop"
    alternatives: tuple[Alternative, ...] = ()  # the texts of a beam search, best first


class Chunk(_Struct, kw_only=True):
    """The tokens of one stream that are ready to send."""

    key: int
    ids: list[int]
    text: str
    log_probabilities: list[float] = []
    attention: list[np.ndarray] = []  # one row of weights per token
    token_texts: list[str] = []  # the text of each token, if attention was requested
    top: list[TopTokens] = []  # of each token, if requested


class Run(_Struct, kw_only=True):
    """One run of a session, for metrics and statistics."""

    rows: int
    length: int  # padded elements per row, summed over the named lengths
    elements: int  # without padding
    padded_elements: int  # rows x length
    compute_s: float  # in the session
    input_s: float = 0.0  # padding and stacking
    output_s: float = 0.0  # splitting the outputs by request
    device_wait_s: float = 0.0  # waiting for the device lease
    mode: str = "oneshot"  # or "stepwise" or "prefill"

    @classmethod
    def of_step(cls, rows: int, padded_rows: int, compute_s: float, device_wait_s: float) -> Run:
        """The run of a step: one element per row."""
        return cls(
            rows=rows,
            length=1,
            elements=rows,
            padded_elements=padded_rows,
            compute_s=compute_s,
            device_wait_s=device_wait_s,
            mode="stepwise",
        )


class RunRecord(_Struct):
    """What the flight recorder keeps of a run."""

    number: int  # of all runs of the engine, from 1
    model: str
    version: int
    kind: str  # "one-shot", "prefill", "step" or "client-step"
    begun: float
    rows: int  # without vacant ones
    run: Run
    requests: tuple[int, ...]  # the keys of the requests in it
    joined: tuple[int, ...] = ()  # of a step: those that were not in the step before it of their batch
    left: tuple[int, ...] = ()  # of a step: those that were in it or in the one before it, and go on no more
    queue_s: float = 0.0  # the longest wait of a request whose first run it is
    cold: bool = False  # the first of its kind and shape since the model was loaded
    failed: bool = False


class SequenceCounts(NamedTuple):
    """Number of sequences of a step-wise model, by state."""

    running: int
    waiting: int
    idle: int  # client-driven ones between two steps, and streams without credit


class Events(_Struct, tag="events", kw_only=True, gc=True):
    """All results of one batch or step, sent as one message. Process `chunks` before `events`."""

    model: str
    version: int
    events: Sequence[Event] = ()
    runs: Sequence[Run] = ()
    chunks: Sequence[Chunk] = ()
    sequences: SequenceCounts | None = None
    state_bytes: int = 0  # states of the sequences that step together, padding included
    sent: float = 0.0  # when the engine sent it; 0: unknown


class Costs(_Struct, tag="costs"):
    """What runs of a model cost now, as the engine has learned it: `CostModel.to_dict`."""

    model: str
    version: int
    costs: Mapping[str, Any]


class Verified(_Struct, tag="verified"):
    """Answers from shared runs were computed again, each alone. `BatchingOff` follows if one differed."""

    model: str
    version: int
    answers: int


class BatchingOff(_Struct, tag="batching_off"):
    """A run showed that requests of this model must not share a run: each runs alone until it is reloaded."""

    model: str
    version: int
    reason: str


class ModelUpdate(_Struct, tag="model", kw_only=True):
    """A model's new state, sent after the change took effect."""

    model: str
    version: int
    state: str  # the name of a frontend.versions.VersionState
    reason: str = ""  # for operators: may hold paths and text of libraries
    public_reason: str = ""  # for callers
    withdrawn: bool = False  # UNAVAILABLE because it was unloaded or left the repository, not by a fault
    spec: ModelSpec | None = None  # only if READY
    costs: Mapping[str, Any] | None = None  # `CostModel.to_dict`; only if READY and one-shot
    tokenizer: bytes = b""  # the content of the tokenizer's file; empty: the model has none
    load_s: float = 0.0  # duration of loading
    load: int = 0  # number of this load; of no other while the engine runs


class LoadDone(_Struct, tag="load_done"):
    """The result of a `Load` or `Unload`."""

    model: str
    verb: str  # "load" or "unload"
    reason: str = ""  # why it failed; empty: it succeeded
    key: int = 0  # of the `Load` or `Unload`
    temporary: bool = False  # it failed for a cause that passes: the engine stops or restarts


class LoadStarted(_Struct, tag="load_started"):
    """A version begins to be loaded. It ends with a `ModelUpdate` of another state, or with `LoadDone`."""

    model: str
    version: int


class LoadStep(_Struct, tag="load_step"):
    """What the load of a version does now, for those who wait for it."""

    model: str
    version: int
    step: str  # "self-test"


class ModelPaused(_Struct, tag="paused"):
    """A thread of the model's engine has ended and is being restarted: the model takes no requests."""

    model: str
    version: int
    reason: str  # empty: it takes requests again


class ModelStuck(_Struct, tag="stuck"):
    """A run or load of the model does not end. Only the end of its process will end it."""

    model: str
    version: int
    reason: str


class EngineStats(_Struct, tag="engine_stats"):
    """Statistics of the engine process."""

    garbage: list[dict[str, int]]  # `gc.get_stats()`: one mapping per generation
    # Of each step-wise form: name, version, number of sequences, bytes of their states.
    sequences: list[tuple[str, int, SequenceCounts, int]] = []


class SequenceFound(_Struct, tag="sequence_found"):
    """The answer to a `FindSequence`."""

    key: int
    load: int  # of the `ModelUpdate` of the mode that it was last started on; 0: it is not known


class RunRecords(_Struct, tag="run_records"):
    """The answer to a `GetRuns`."""

    key: int
    records: list[RunRecord]  # in order of their numbers
    more: bool = False  # there are more now
    reason: str = ""  # why there is no answer: the engine process restarts


class SequenceAnswer(_Struct, tag="sequence_answer", kw_only=True):
    """The answer to a `GetSequence` or `PutSequence`."""

    key: int
    model: str = ""  # the name of the mode that the sequence is on
    version: int = 0
    files: str = ""  # the hash of the model's files
    state: SequenceState | None = None
    error: ServingError | None = None


class LiveSequence(NamedTuple):
    """A sequence that a caller drives, a text that was put and waits for its stream, or the text of a
    stream."""

    model: str  # the name of the mode
    version: int
    sequence: SequenceId
    stream: int = 0  # the key of the generation request


class SequenceList(_Struct, tag="sequence_list"):
    """The answer to a `ListSequences`."""

    key: int
    sequences: list[LiveSequence]


EngineUpdate = (
    Events
    | Costs
    | Verified
    | BatchingOff
    | ModelUpdate
    | LoadStarted
    | LoadStep
    | LoadDone
    | ModelPaused
    | ModelStuck
    | EngineStats
    | RunRecords
    | SequenceFound
    | SequenceAnswer
    | SequenceList
    | SequenceMoved
    | Heartbeat
)


class EngineInfo(_Struct):
    """Properties of an engine that are fixed when it starts."""

    device: str  # "cpu" or "cuda"
    runtime: str  # version of ONNX Runtime
    leases: int  # number of device leases: the most runs at a time


class EngineConfig(_Struct, tag="config", kw_only=True):
    """Configuration of the engine, sent to its process at startup."""

    models: str  # path of the model repository
    more_models: tuple[str, ...] = ()  # paths of further ones
    device: str = "auto"
    device_id: int = 0  # of several GPUs
    gpu_memory_mb: int = 0  # the most that a graph may take of a GPU; 0: no limit
    state_values: str = "auto"  # where the states of sequences are: "host", "device", or by the device
    cache: str = ""  # folder for measured costs and self-test results; empty: none
    batching: bool = True
    max_run_s: float = 0.020  # bound on a run while several models use the device
    selected: tuple[str, ...] = ()  # names of the models to load; empty: all
    unloaded: tuple[str, ...] = ()  # names of models not to load, as they were unloaded
    restart: bool = False  # the engine served before: a selected model may have left the repository
    stalled_s: float = 30.0  # timeout of a stream whose reader takes nothing
    niceness: int = 0  # nice value of the threads of one-shot engines
    reload_grace_s: float = 300.0  # how long sequences may go on with a version that was replaced
    run_limit_s: float = 60.0  # a run is ended after it
    load_limit_s: float = 600.0  # a load is given up after it
    excluded: Mapping[str, str] = {}  # models that are not loaded at the start, and why
    verify_share: float = 0.0  # of the time of shared runs, to verify their answers
    recorded_runs: int = 0  # the most runs to remember of each model and kind; 0: none


class StopEngine(_Struct, tag="stop"):
    """To an engine process: stop within `within_s` seconds and send no updates after that."""

    within_s: float


class EngineStarted(_Struct, tag="started"):
    """From an engine process: it runs, and all models of the repository have been reported."""

    info: EngineInfo


class EngineFailed(_Struct, tag="failed"):
    """From an engine process: it could not start."""

    reason: str


class Engine(Protocol):
    """An engine as the transports in ipc/ use it; `engine.models.LoadedModels` implements it."""

    info: EngineInfo

    def start(self, report: Callable[[EngineUpdate], None]) -> None:
        """Start loading the models. `report` is called from the engine's threads."""

    def receive(self, messages: Sequence[Message]) -> object:
        """Handle messages in order. Never blocks; never raises because of a message's content."""

    def stop(self, within_s: float) -> None:
        """Finish or fail all requests within `within_s` seconds, then join the threads."""
