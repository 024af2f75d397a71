"""Result types of the streaming calls: the parts that arrive, and the joined result. See also results.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt

    from lockstep_client.results import Label, Timings


class Flush(Enum):
    """The type of `FLUSH`."""

    FLUSH = "flush"


FLUSH: Final = Flush.FLUSH
"""A piece of a Follow that completes the buffered word without white space."""


@dataclass(frozen=True)
class Alternative:
    """One of the texts of a beam search."""

    text: str
    tokens: tuple[int, ...]
    score: float
    """The sum of its log-probabilities, divided by (number of tokens) ** (length penalty)."""
    reason: str


@dataclass(frozen=True)
class TopTokens:
    """The most probable tokens at one place, best first."""

    ids: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class GenerationPart:
    """The tokens that were ready when the server wrote the message."""

    tokens: tuple[int, ...]
    text: str
    """The concatenated texts of all parts are the exact text."""
    log_probabilities: tuple[float, ...]
    """One per token, if requested."""
    reason: str = ""
    """Set in the last part only, as are `timings`, `model` and `version`."""
    timings: Timings | None = None
    seed: int | None = None
    """Set in the first and in the last part."""
    notice: str = ""
    model: str = ""
    version: str = ""
    alternatives: tuple[Alternative, ...] = ()
    """The texts of a beam search, best first; in the last part only."""
    top: tuple[TopTokens, ...] = ()
    """One per token, if requested."""
    sample: int = 0
    """Which of the samples it continues."""
    stream_id: str = ""
    """Names the stream of this sample, for `get_sequence`; in its first part only."""


@dataclass(frozen=True)
class Generation:
    """The text that a language model generated."""

    text: str
    tokens: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    reason: str
    """Why generation ended: END, the model's end token; LENGTH, a limit; STOP, a stop string."""
    timings: Timings
    seed: int
    notice: str = ""
    model: str = ""
    version: str = ""
    """The version that generated it."""
    alternatives: tuple[Alternative, ...] = ()
    """The texts of a beam search, best first; the first is the text itself."""
    top: tuple[TopTokens, ...] = ()
    """One per token, if requested."""
    samples: tuple[Generation, ...] = ()
    """All texts, if several were asked for; this is the first."""


@dataclass(frozen=True, eq=False)
class TranslationPart:
    """The tokens that were ready when the server wrote the message."""

    tokens: tuple[int, ...]
    text: str
    """The concatenated texts of all parts are the exact text."""
    pieces: tuple[str, ...]
    """The tokens as text, if attention was requested."""
    attention: npt.NDArray[np.float32] | None
    """If requested: shape [tokens, source tokens]; each row sums to 1."""
    source_tokens: tuple[str, ...]
    """The source tokens that the attention is over, if requested; in the first part only."""
    reason: str = ""
    """Set in the last part only, as are `timings`, `model` and `version`."""
    timings: Timings | None = None
    notice: str = ""
    model: str = ""
    version: str = ""
    alternatives: tuple[Alternative, ...] = ()
    """The texts of a beam search, best first; in the last part only."""
    stream_id: str = ""
    """Names the stream, for `get_sequence`; in the first part only."""


@dataclass(frozen=True, eq=False)
class Translation:
    """The translation of one text."""

    text: str
    tokens: tuple[int, ...]
    pieces: tuple[str, ...]
    """The tokens as text, if attention was requested."""
    attention: npt.NDArray[np.float32] | None
    """If requested: shape [tokens, source tokens]; each row sums to 1."""
    source_tokens: tuple[str, ...]
    reason: str
    """Why the translation ended: END, the model's end token, or LENGTH, a limit."""
    timings: Timings
    notice: str = ""
    model: str = ""
    version: str = ""
    """The version that translated."""
    alternatives: tuple[Alternative, ...] = ()
    """The texts of a beam search, best first; the first is the text itself."""


@dataclass(frozen=True)
class Prediction:
    """The prediction after one element of a sequence."""

    position: int
    """Number of elements so far, including this one."""
    id: int
    element: str
    labels: tuple[Label, ...]
    """Most probable first: labels of a classifier, or next tokens of a language model."""
    computed_elements: int
    """Elements computed for this prediction: 1 for a step, the length of the prefix for a re-encoding."""
    timings: Timings
    notice: str = ""
    model: str = ""
    """Model and version are set in the first prediction of a stream only."""
    version: str = ""
    outputs: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict, compare=False)
    """Outputs of the model for this element, of frames: read-only arrays without the axis of the rows."""
    text: str = ""
    """Of a CTC model: the text so far is its first `kept_characters` characters, then this."""
    kept_characters: int = 0
    stream_id: str = ""
    """Names the stream, for `get_sequence`; in the first prediction of a step-wise model only."""

    @property
    def best(self) -> Label:
        """The most probable label."""
        return self.labels[0]
