"""What streams bring: parts as they come, and what they make together. The words are those of results.py."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lockstep_client.results import Label, Timings


class Flush(Enum):
    """The type of `FLUSH`."""

    FLUSH = "flush"


FLUSH: Final = Flush.FLUSH
"""Among the pieces of a Follow: take the text that is held as it stands."""


@dataclass(frozen=True)
class GenerationPart:
    """Every token that was ready when the server wrote a message."""

    tokens: tuple[int, ...]
    text: str
    """The texts of all parts join to the exact one."""
    log_probabilities: tuple[float, ...]
    """One for each token, when asked for."""
    reason: str = ""
    """Not empty in the last part, as are `timings`, `seed`, `model` and `version`."""
    timings: Timings | None = None
    seed: int | None = None
    notice: str = ""
    model: str = ""
    version: str = ""


@dataclass(frozen=True)
class Generation:
    """A text that a language model made."""

    text: str
    tokens: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    reason: str
    """Why it ended: END, the model's end token; LENGTH, a limit; STOP, a stop string."""
    timings: Timings
    seed: int
    notice: str = ""
    model: str = ""
    version: str = ""
    """The version that wrote it."""


@dataclass(frozen=True, eq=False)
class TranslationPart:
    """Every token that was ready when the server wrote a message."""

    tokens: tuple[int, ...]
    text: str
    """The texts of all parts join to the exact one."""
    pieces: tuple[str, ...]
    """The tokens as text, when attention was asked for."""
    attention: npt.NDArray[np.float32] | None
    """When asked for: [tokens, source tokens]; each row adds up to 1."""
    source_tokens: tuple[str, ...]
    """What the attention is over; in the first part, when asked for."""
    reason: str = ""
    """Not empty in the last part, as are `timings`, `model` and `version`."""
    timings: Timings | None = None
    notice: str = ""
    model: str = ""
    version: str = ""


@dataclass(frozen=True, eq=False)
class Translation:
    """The translation of one text."""

    text: str
    tokens: tuple[int, ...]
    pieces: tuple[str, ...]
    """The tokens as text, when attention was asked for."""
    attention: npt.NDArray[np.float32] | None
    """When asked for: [tokens, source tokens]; each row adds up to 1."""
    source_tokens: tuple[str, ...]
    reason: str
    """Why it ended: END, the model's end token, or LENGTH, a limit."""
    timings: Timings
    notice: str = ""
    model: str = ""
    version: str = ""
    """The version that translated."""


@dataclass(frozen=True)
class Prediction:
    """What a model predicts after one more element of a sequence."""

    position: int
    """Elements read so far, this one included."""
    id: int
    element: str
    labels: tuple[Label, ...]
    """Most probable first: labels of a classifier, or next tokens of a language model."""
    computed_elements: int
    """Computed for this prediction: 1 for a step, the whole prefix for a re-encoding."""
    timings: Timings
    notice: str = ""
    model: str = ""
    """Who predicts, and in which version: told with the first prediction of a stream."""
    version: str = ""

    @property
    def best(self) -> Label:
        """The most probable label."""
        return self.labels[0]
