"""When and how a broken stream of text goes on: pure, apart from the clock."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from lockstep_client import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import grpc
    from google.protobuf.message import Message

    from lockstep_client.protocol import StreamCall

M = TypeVar("M")

_FIRST_S, _LONGEST_S = 0.1, 1.0
"""The pause before the first attempt after a break, and the longest one: each is twice the one before."""


class Resumption(Generic[M]):
    """The attempts to go on with one stream.

    Args:
        start: sends a request with so many seconds until its deadline; infinity: without one.
        deadline_s: of the whole stream.
        resume_s: how long a stream is tried to be resumed without a new part; 0: not at all.
    """

    def __init__(
        self,
        call: StreamCall[M, Any],
        start: Callable[[Message, float], Any],
        deadline_s: float,
        resume_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._call, self._start, self._resume_s, self._clock = call, start, resume_s, clock
        self._end = clock() + deadline_s
        self._request: Message | None = None
        self._parts = 0
        self._since, self._pause_s = 0.0, _FIRST_S

    def pause_s(self, error: grpc.RpcError, parts: Sequence[M]) -> float | None:
        """How long to wait before the stream goes on after these parts; None: it does not."""
        if not errors.is_unavailable(error) or self._call.resume is None or not parts:
            return None
        now = self._clock()
        if len(parts) != self._parts:  # it went on since the last break
            self._parts, self._since, self._pause_s = len(parts), now, _FIRST_S
            self._request = self._call.resume(self._call.request, parts)
        pause_s = max(self._pause_s, errors.retry_after_s(error) or 0.0)
        if self._request is None or now + pause_s > min(self._since + self._resume_s, self._end):
            return None
        self._pause_s = min(2 * self._pause_s, _LONGEST_S)
        return pause_s

    def start(self) -> Any:
        """Send the request that goes on."""
        assert self._request is not None
        left_s = self._end - self._clock()
        return self._start(self._request, left_s if math.isfinite(left_s) else math.inf)
