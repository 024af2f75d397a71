"""A step-wise sequence, in its two kinds: the server chooses each element, or the caller sends it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ... import messages

if TYPE_CHECKING:
    from ...messages import SequenceId
    from ...model.datatypes import Arrays
    from ...text.detokenizer import TextStream


@dataclass(slots=True, eq=False)
class Sequence:
    """What the scheduler needs to know of either kind."""

    key: int  # of the request that began it
    accepted: float
    deadline: float | None = None
    priority: int = 0
    caller: str = ""
    turn: float = 0.0  # the caller's fair place among those who wait: smaller is sooner
    slot: bool = False  # its states have a place
    since: float = 0.0  # when it got its slot, or was last fed


@dataclass(slots=True, eq=False)
class GenerationSequence(Sequence):
    """Autoregressive: Generate, Translate. `prompt` is taken in first, then tokens are made."""

    prompt: tuple[int, ...] = ()
    how: messages.Decode = field(default_factory=messages.Decode)
    limit: int = 0  # tokens it may make
    credits: int = messages.STREAM_CREDITS
    stopped: float = 0.0  # when its reader did
    source: tuple[str, ...] = ()  # the prompt's tokens, for who asked for attention
    text: TextStream | None = None
    states: Arrays | None = None  # while it has no row
    token: int = 0  # what its next step takes in
    made: int = 0
    pending: PendingOutput = field(default_factory=lambda: PendingOutput())
    told: bool = False  # a chunk has been sent
    first_run: float = 0.0
    first_token: float = 0.0
    prefill_s: float = 0.0
    steps: int = 0
    compute_s: float = 0.0
    rows: int = 0  # in its steps, the sum

    @property
    def attentive(self) -> bool:
        """Each of its tokens must be looked at when it is made."""
        return bool(self.how.stop or self.how.log_probabilities or self.how.attention)


@dataclass(slots=True, eq=False)
class PendingOutput:
    """What a decoding made and has not been told of."""

    ids: list[int] = field(default_factory=list)
    text: str = ""  # kept for those with stop strings only
    log_probabilities: list[float] = field(default_factory=list)
    attention: list[Any] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class StepRequest:
    """One step that a caller asked for."""

    key: int
    inputs: Arrays
    outputs: tuple[str, ...]
    accepted: float
    deadline: float | None
    of: ClientSequence
    gone: bool = False  # cancelled, or past its deadline: it is passed over


@dataclass(slots=True, eq=False)
class ClientSequence(Sequence):
    """Fed: Follow, and Open Inference requests with a `sequence_id`. Between two steps its states
    are kept here."""

    id: SequenceId = ""
    waiting: deque[StepRequest] = field(default_factory=deque)
    closing: bool = False  # it ends once what waits has run
    states: Arrays | None = None
    steps: int = 0
