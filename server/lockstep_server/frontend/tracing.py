"""The trace of a call: W3C `traceparent` in its metadata -> `current` -> metrics exemplars, log, spans.

`spans.py` exports spans; without it a trace only carries its id.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ..messages import Event
    from ..model.spec import ModelSpec

HEADER = "traceparent"

_PARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1


class RequestSummary(NamedTuple):
    """An accepted request that has ended, for the request log and the trace."""

    spec: ModelSpec
    method: str
    field: str  # the request field that holds the input; "" for tensors
    text: str | None
    streams: bool  # its tokens were streamed
    accepted: float
    seconds: float
    outcome: str  # "ok", or an ErrorCode
    event: Event | None  # None: the call was cancelled
    client_driven: bool = False  # one step of a client-driven sequence


class Trace:
    """The sampled trace that a call belongs to. This class has only its id; a subclass makes spans."""

    def __init__(self, trace_id: str) -> None:
        self.id = trace_id  # 32 hexadecimal digits

    def request_ended(self, request: RequestSummary) -> None:
        """A request of the call has ended."""

    def call_ended(self, code: str, number: int) -> None:
        """The call has ended with this status: its name and its number."""


BeginTrace = Callable[[str, Iterable[tuple[str, Any]]], Trace | None]
"""Makes a call's trace from its path and metadata, or None if the call is not sampled."""

current: ContextVar[Trace | None] = ContextVar("trace", default=None)
"""The trace of the current call, or None if it is not sampled."""


def begin(_: str, metadata: Iterable[tuple[str, Any]]) -> Trace | None:
    """The client's trace from the metadata, or None if there is none or it is not sampled."""
    for key, value in metadata:
        if key == HEADER:
            trace_id = sampled_trace_id(value)
            return Trace(trace_id) if trace_id else None
    return None


def sampled_trace_id(traceparent: str) -> str:
    """The trace id of a sampled `traceparent`; "" if it is not sampled or malformed. Never raises."""
    found = _PARENT.fullmatch(traceparent)
    if found is None:
        return ""
    version, trace_id, span_id, flags, more = found.groups()
    if more is not None and version == "00":
        return ""
    if not int(flags, 16) & _SAMPLED or not int(trace_id, 16) or not int(span_id, 16):
        return ""
    return trace_id
