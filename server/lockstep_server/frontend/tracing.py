"""Whose trace a call belongs to: the W3C `traceparent` of its metadata, carried in the call's context
to where its requests are counted, logged and ended.

Whether spans are made of it is another matter: `spans.py`.
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
    """An accepted request's story."""

    spec: ModelSpec
    method: str
    field: str  # what the caller calls its input, where it has a name
    text: str | None
    streams: bool  # tokens went out while it ran
    accepted: float
    seconds: float
    outcome: str  # "ok", or a meaning
    event: Event | None  # none: its caller left
    fed: bool = False  # one step of a sequence that its caller feeds


class Trace:
    """A sampled trace that a call belongs to. The spans of it, if there are any, are a subclass's."""

    def __init__(self, trace_id: str) -> None:
        self.id = trace_id  # 32 hexadecimal digits

    def ended(self, request: RequestSummary) -> None:
        """A request of the call has ended."""

    def finished(self, code: str, number: int) -> None:
        """The call has ended, with this status code."""


Begin = Callable[[str, Iterable[tuple[str, Any]]], Trace | None]
"""What begins a call's trace, of its path and its metadata; none where the call is not sampled."""

current: ContextVar[Trace | None] = ContextVar("trace", default=None)
"""Of the call that runs; none where it is not sampled."""


def begin(_: str, metadata: Iterable[tuple[str, Any]]) -> Trace | None:
    """The trace of a call's own caller, where it has one that is sampled."""
    for key, value in metadata:
        if key == HEADER:
            trace_id = sampled(value)
            return Trace(trace_id) if trace_id else None
    return None


def sampled(traceparent: str) -> str:
    """The trace id, where the caller samples the trace; empty where it does not, or wrote nonsense."""
    found = _PARENT.fullmatch(traceparent)
    if found is None:
        return ""
    version, trace_id, span_id, flags, more = found.groups()
    if more is not None and version == "00":
        return ""
    if not int(flags, 16) & _SAMPLED or not int(trace_id, 16) or not int(span_id, 16):
        return ""
    return trace_id
