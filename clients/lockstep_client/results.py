"""What the calls return: plain frozen values, numpy where there are tensors.

Arrays are read-only views of the bytes that came; copy one to write into it. Seconds are wall-clock
seconds on the server. `notice` is not empty where the server has something to say about how it serves
the model: that it failed its self-test, for one.
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
    """Where the time of an answer went, on the server."""

    queue_s: float
    """From acceptance to the start of the first run."""
    compute_s: float
    """The whole of each run that the answer took part in."""
    steps: int
    """Runs that the answer took part in: 1 for a one-shot answer."""
    batch_rows: float
    """Rows in those runs, the mean over the runs."""
    prefill_s: float = 0.0
    """Step-wise only: the run that took the prompt or the source in."""
    first_token_s: float = 0.0
    """Step-wise only: from acceptance to the first token."""


@dataclass(frozen=True)
class Label:
    """One label of a classifier."""

    name: str
    index: int
    """Position among the model's labels."""
    probability: float
    """0 to 1; over all labels of the model they add up to 1."""
    score: float
    """The model's own output, before the activation."""


@dataclass(frozen=True)
class Classification:
    """The labels of one text."""

    labels: tuple[Label, ...]
    """Most probable first; never empty in an answer of a classifier."""
    length: int
    """Elements that the model read: the text's length in tokens."""
    timings: Timings
    model: str
    version: str
    """The version that answered."""
    notice: str = ""

    @property
    def best(self) -> Label:
        """The most probable label."""
        return self.labels[0]


@dataclass(frozen=True, eq=False)
class Encoding:
    """The vector of one text."""

    vector: npt.NDArray[np.float32]
    """Shape [dimensions]."""
    attention: npt.NDArray[np.float32] | None
    """When asked for: as the model gives it, without the batch axis, [layers, heads, words, words]."""
    tokens: tuple[str, ...]
    """What the attention is over, when it was asked for and the text came as text."""
    length: int
    timings: Timings
    model: str
    version: str
    notice: str = ""


@dataclass(frozen=True, eq=False)
class InferResult:
    """The outputs of a tensor call."""

    outputs: Mapping[str, npt.NDArray[Any]]
    """By name, in the server's order. BYTES come as an object array of `bytes`."""
    model: str
    version: str
    parameters: Mapping[str, bool | int | float | str]

    def __getitem__(self, output: str) -> npt.NDArray[Any]:
        """The output of this name; KeyError where the model has none."""
        return self.outputs[output]


@dataclass(frozen=True)
class ModelState:
    """One version of one model in the server's repository."""

    name: str
    version: str
    state: str
    """LOADING, READY, UNLOADING or UNAVAILABLE."""
    reason: str
    """Why it is not READY, or what to know of it."""

    @property
    def ready(self) -> bool:
        """Whether it answers now."""
        return self.state == "READY"


@dataclass(frozen=True)
class Duration:
    """How often something happened, and how long it took in all."""

    count: int
    total_s: float


@dataclass(frozen=True)
class ModelStatistics:
    """What the server has counted of one version of a model since it loaded."""

    name: str
    version: str
    last_inference_s: float
    """Seconds since the epoch; 0 where there was none."""
    rows: int
    """Rows answered."""
    runs: int
    """Runs of the session: several rows may share one."""
    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    runs_by_rows: Mapping[int, Duration]
    """Runs with so many rows, and the time in the session."""


@dataclass(frozen=True)
class TensorSpec:
    """What a model takes or gives."""

    name: str
    datatype: str
    """BOOL, UINT8 to UINT64, INT8 to INT64, FP16, BF16, FP32, FP64 or BYTES."""
    shape: tuple[int, ...]
    """With the batch axis; -1 for an axis of any size."""


@dataclass(frozen=True)
class ModelMetadata:
    """How a model can be asked on the tensor API."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class ServerInfo:
    """What answers at the address."""

    name: str
    version: str
    extensions: tuple[str, ...]


@dataclass(frozen=True)
class Health:
    """What the health service says of a model, or of the whole server."""

    model: str
    """Empty for the whole server."""
    status: str
    """SERVING, NOT_SERVING, SERVICE_UNKNOWN or UNKNOWN."""

    @property
    def serving(self) -> bool:
        """Whether requests are answered now."""
        return self.status == "SERVING"


@dataclass(frozen=True, eq=False)
class Outcome(Generic[G, R]):
    """What became of one of many: its answer, or why it has none.

    for one in client.classify_many("sentiment-lstm", lines):
        print(one.number, one.given, one.error or one.answer.best.name)
    """

    number: int
    """Position among what was given, from 0."""
    given: G
    """The text, ids or tensors that were asked about."""
    error: LockstepError | None
    """None where there is an answer. Other outcomes are not concerned."""
    _answer: R | None = field(default=None, repr=False)

    @property
    def answer(self) -> R:
        """The answer. Raises `error` where there is none."""
        if self.error is not None:
            raise self.error
        return self._answer  # type: ignore[return-value]
