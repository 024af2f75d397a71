"""A checked request for a model version, and the message that the engine gets for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from .. import messages
from ..model.spec import RequestSize

if TYPE_CHECKING:
    from ..text.tokenizer import EncodedText
    from .admission import CallShare
    from .served_model import ServedModel

UNMEASURED = RequestSize(0, (), 0)
"""The size of a request whose text is not tokenized yet."""


@dataclass(slots=True, eq=False)
class InferenceRequest:
    """A checked request for one model version.

    `message` is the request as the engine gets it, except its key, times, and what comes from `text`.
    """

    served: ServedModel
    method: str  # the RPC, for metrics and log
    message: messages.Request
    text: str | None = None
    encoded: EncodedText | None = None  # `text`, once it is tokenized
    needs_places: bool = False  # the places of the tokens in `text` too
    queue_timeout_s: float = 0.0  # 0: no queue timeout
    remaining_s: float | None = None  # until the call's deadline
    call: CallShare | None = None  # the call, if it has several requests
    id: str = ""  # that its caller gave it

    @property
    def field(self) -> str:
        """The caller's name for the input."""
        return self.message.field

    @property
    def tokens(self) -> list[str] | None:
        """The tokens of `text`; None if ids were sent."""
        return self.encoded.tokens if self.encoded else None


def elements(message: messages.Request) -> int:
    """The elements of a request, which count as its tokens."""
    if isinstance(message, messages.Infer):
        return message.size.elements
    return len(message.prompt) + len(message.received) if isinstance(message, messages.Generate) else 1


def tensor_bytes(message: messages.Request) -> int:
    """Bytes of a request's tensors."""
    if isinstance(message, messages.Generate):
        return 0
    return sum(array.nbytes for array in message.inputs.values())


def accepted_message(
    message: messages.Request,
    key: int,
    arrived: float,
    deadline: float | None,
    remaining_s: float | None,
) -> messages.Request:
    if not isinstance(message, messages.Infer):
        return replace(message, key=key, accepted=arrived, deadline=deadline)
    due = None if remaining_s is None else arrived + remaining_s
    return replace(message, key=key, accepted=arrived, deadline=deadline, due=due)


def send_policy(message: messages.Request, *, may_run: bool) -> messages.SendPolicy:
    """Generation requests are sent at once, and so are others that `may_run` at once: the model has no more
    requests in flight than runs at a time. All others are coalesced, so that they can share a run."""
    at_once = may_run or isinstance(message, messages.Generate)
    return messages.SendPolicy.NOW if at_once else messages.SendPolicy.COALESCE
