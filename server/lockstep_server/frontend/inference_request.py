"""A checked request for a model version, and the message that the engine gets for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from .. import messages
from ..model.spec import RequestSize

if TYPE_CHECKING:
    from ..text.tokenizer import EncodedText
    from .admission import CallShare
    from .served_model import ServedModel

UNMEASURED = RequestSize(0, (), 0)
"""The size of a request whose text is not tokenized yet."""


class InferenceRequest(msgspec.Struct, eq=False):
    """A checked request for one model version.

    `message` is the request as the engine gets it, except its key, times, and what comes from `text`. It
    belongs to this request, which completes it.
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
