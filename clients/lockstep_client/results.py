"""Result types of the calls: frozen dataclasses, with numpy arrays for tensors.

Arrays are read-only views of the received bytes; copy an array to modify it. Times are wall-clock seconds on
the server. `notice` is a warning of the server about the model, for example that it failed its self-test.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt

    from lockstep_client.errors import LockstepError

G = TypeVar("G")
R = TypeVar("R")


@dataclass(frozen=True)
class Timings:
    """Server-side timings of one result."""

    queue_s: float
    """From acceptance to the start of the first run."""
    compute_s: float
    """Total duration of the runs that included this request, other rows included."""
    steps: int
    """Number of those runs: 1 for a one-shot request."""
    batch_rows: float
    """Mean number of rows in those runs."""
    prefill_s: float = 0.0
    """Step-wise only: duration of the run that processed the prompt or the source."""
    first_token_s: float = 0.0
    """Step-wise only: from acceptance to the first token."""
    request_id: str = ""
    """The id of this request in the server's record of runs: `lockstep why` explains it."""


@dataclass(frozen=True)
class Label:
    """One label of a classifier."""

    name: str
    index: int
    """Position among the model's labels."""
    probability: float
    """From 0 to 1; the probabilities of all labels of the model sum to 1."""
    score: float
    """The raw output of the model, before the activation."""


@dataclass(frozen=True)
class Classification:
    """The labels of one text."""

    labels: tuple[Label, ...]
    """Most probable first; never empty."""
    length: int
    """Length of the text in tokens."""
    timings: Timings
    model: str
    version: str
    """The version that answered."""
    notice: str = ""

    @property
    def best(self) -> Label:
        """The most probable label."""
        return self.labels[0]


@dataclass(frozen=True)
class LabeledSpan:
    """A word or token of a text, or an entity, and its labels."""

    start: int
    end: int
    """Place in the text: `text[start:end]`. In bytes of UTF-8 it starts at `len(text[:start].encode())`. Both
    are 0 for ids."""
    text: str
    labels: tuple[Label, ...]
    """Most probable first; never empty."""
    token: int
    """Index of its first token among all that the model read, special tokens included."""
    tokens: int
    """Number of its tokens."""

    @property
    def best(self) -> Label:
        """The most probable label."""
        return self.labels[0]


@dataclass(frozen=True)
class TokenClassification:
    """The labels of the words, tokens or entities of one text."""

    spans: tuple[LabeledSpan, ...]
    """In the order of the text."""
    length: int
    """Length of the text in tokens, special tokens included."""
    timings: Timings
    model: str
    version: str
    notice: str = ""


@dataclass(frozen=True, eq=False)
class Encoding:
    """The vector of one text."""

    vector: npt.NDArray[np.float32]
    """Shape [dimensions]."""
    attention: npt.NDArray[np.float32] | None
    """If requested: the model's attention weights, of shape [layers, heads, tokens, tokens]."""
    tokens: tuple[str, ...]
    """The tokens that the attention is over, if it was requested for a text (not ids)."""
    length: int
    timings: Timings
    model: str
    version: str
    notice: str = ""


@dataclass(frozen=True)
class TranscriptToken:
    """A character or token of a transcript."""

    id: int
    start: int
    """The first of the model's outputs that it was read in."""
    end: int
    """The one after the last."""


@dataclass(frozen=True)
class Transcript:
    """The text that a CTC model read in one sequence of frames."""

    text: str
    tokens: tuple[TranscriptToken, ...]
    """In order, without blanks and repetitions."""
    length: int
    """Number of elements that the model read."""
    timings: Timings
    model: str
    version: str
    notice: str = ""


@dataclass(frozen=True, eq=False)
class InferResult:
    """The outputs of `infer`."""

    outputs: Mapping[str, npt.NDArray[Any]]
    """By name, in the server's order. A BYTES output is an object array of `bytes`."""
    model: str
    version: str
    parameters: Mapping[str, bool | int | float | str]

    def __getitem__(self, output: str) -> npt.NDArray[Any]:
        """The output of this name. Raises KeyError if it is missing."""
        return self.outputs[output]


@dataclass(frozen=True)
class ModelState:
    """One version of one model in the server's repository."""

    name: str
    version: str
    state: str
    """LOADING, READY, UNLOADING or UNAVAILABLE."""
    reason: str
    """Why the version is not READY, or a warning about it."""

    @property
    def ready(self) -> bool:
        """Whether the version accepts requests."""
        return self.state == "READY"


@dataclass(frozen=True)
class Duration:
    """The number of events, and their total duration."""

    count: int
    total_s: float


@dataclass(frozen=True)
class ModelStatistics:
    """Statistics of one version of a model since it was loaded."""

    name: str
    version: str
    last_inference_s: float
    """Unix time of the last inference, in seconds; 0 if there was none."""
    rows: int
    """Number of rows answered."""
    runs: int
    """Number of session runs; a run may hold several rows."""
    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    runs_by_rows: Mapping[int, Duration]
    """Number of runs by batch size in rows, and their time in the session."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a model."""

    name: str
    datatype: str
    """BOOL, UINT8 to UINT64, INT8 to INT64, FP16, BF16, FP32, FP64 or BYTES."""
    shape: tuple[int, ...]
    """Includes the batch axis; -1 stands for any size."""


@dataclass(frozen=True)
class ModelMetadata:
    """The tensor interface of a model."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class ServerInfo:
    """Name, version and protocol extensions of the server."""

    name: str
    version: str
    extensions: tuple[str, ...]


@dataclass(frozen=True)
class Health:
    """Health of a model, or of the whole server."""

    model: str
    """Empty for the whole server."""
    status: str
    """SERVING, NOT_SERVING, SERVICE_UNKNOWN or UNKNOWN."""

    @property
    def serving(self) -> bool:
        """Whether requests are accepted."""
        return self.status == "SERVING"


@dataclass(frozen=True, eq=False)
class Outcome(Generic[G, R]):
    """The result of one item of a pipelined call: an answer or an error.

    for outcome in client.classify_many("sentiment-lstm", lines):
        print(outcome.number, outcome.given, outcome.error or outcome.answer.best.name)
    """

    number: int
    """Position of the item in the iterable, from 0."""
    given: G
    """The item: text, ids or tensors."""
    error: LockstepError | None
    """The error of this item; None if it was answered."""
    _answer: R | None = field(default=None, repr=False)

    @property
    def answer(self) -> R:
        """The answer. Raises `error` if the item failed."""
        if self.error is not None:
            raise self.error
        return self._answer  # type: ignore[return-value]
