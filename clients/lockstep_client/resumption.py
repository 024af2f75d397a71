"""When, where and how a broken stream goes on: pure, apart from the clock."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from lockstep_client import errors
from lockstep_client.attempts import KEPT_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import grpc
    from google.protobuf.message import Message

    from lockstep_client.attempts import Attempts
    from lockstep_client.pieces import RequestMessages
    from lockstep_client.protocol import StreamCall
    from lockstep_client.routing import Router

M = TypeVar("M")

_KEPT_FOR_A_MOVE = 1 << 20

_FIRST_S, _LONGEST_S = 0.1, 1.0
"""The pause before the first attempt after a break, and the longest one: each is twice the one before."""


class Resumption(Generic[M]):
    """The attempts to go on with one stream.

    Args:
        open_: starts the call on a server with its messages, and so many seconds until its deadline.
        deadline_s: of the whole stream.
        resume_s: how long a stream is tried to be resumed without a new part; 0: not at all.
        restarts: whether a stream of pieces is begun again if its server is lost, from all of them.
    """

    def __init__(
        self,
        call: StreamCall[M, Any],
        open_: Callable[[StreamCall[M, Any], str, Any, float], Any],
        router: Router,
        attempts: Attempts,
        deadline_s: float,
        resume_s: float,
        restarts: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._call, self._open, self._router, self._attempts = call, open_, router, attempts
        self._resume_s, self._restarts, self._clock = resume_s, restarts, clock
        self._end = clock() + deadline_s
        self._request: Message | None = call.request
        self._address, self._tried = "", list[str]()
        self._moved = ""
        self._parts = -1
        self._cut_off = False
        self.begins_again = False
        """Whether the next call sends all pieces again, and its replies begin with those that have
        arrived."""
        self._since, self._pause_s = 0.0, _FIRST_S
        use = call.sequence
        self._key, self._place = (use.key, use.place) if use else ("", None)

    @property
    def kept(self) -> int:
        """Bytes of pieces to keep, to begin the stream again, or to go on where it was moved."""
        return KEPT_BYTES if self._restarts else _KEPT_FOR_A_MOVE

    @property
    def request(self) -> Message:
        """What to send: the whole request, or the first message before pieces."""
        assert self._request is not None
        return self._request

    def start(self, messages: Any) -> Any:
        """Start the call, or the one that goes on."""
        self._address = self._moved or self._router.choose(self._key, self._place, avoid=self._tried)
        self._moved = ""
        left_s = self._end - self._clock()
        return self._open(
            self._call, self._address, messages, max(left_s, 0.0) if math.isfinite(left_s) else math.inf
        )

    def received(self, part: M) -> None:
        """The first part of a call has arrived."""
        self._tried.clear()
        if self._router.is_alone:
            return
        self._attempts.report(self._address, None)
        if self._place is not None:
            self._router.place(self._place, self._address)
        if stream_id := getattr(part, "stream_id", ""):
            self._router.place(stream_id, self._address)

    def pause_s(
        self, error: grpc.RpcError, parts: Sequence[M], requests: RequestMessages | None
    ) -> float | None:
        """How long to wait before the stream goes on after these parts; None: it does not."""
        replays = requests is not None and requests.complete
        self._attempts.report(self._address, error)
        if (moved := self._attempts.follow(error)) and self._follow(moved, parts, requests):
            return 0.0
        if not parts:
            return self._again(error, replays)
        if requests:
            if not (self._restarts and replays and errors.is_lost(error)):
                return None
            requests.begin_again()
            self.begins_again, self._request = True, self._call.request
            return self._wait_s(error, parts)
        if self._call.resume is None:
            return None
        if not errors.is_unavailable(error):
            return None
        self._request = self._call.resume(self._call.request, parts)
        return self._wait_s(error, parts) if self._request is not None else None

    def _follow(self, moved: errors.Moved, parts: Sequence[M], requests: RequestMessages | None) -> bool:
        """Let the next call go on where the sequence was moved to. Returns False if it cannot."""
        request = self._call.request
        if self._call.resume:
            self._request = _text_of(self._call.resume(request, parts) or request, moved.sequence_id)
        elif requests and requests.go_on():
            self.begins_again, self._request = False, _pieces_of(request, moved.sequence_id)
        elif requests and requests.complete:
            requests.begin_again()
            self.begins_again, self._request = True, request
        else:
            return False
        self._moved = moved.address
        return True

    def _again(self, error: grpc.RpcError, replays: bool) -> float | None:
        """How long to wait before a stream without a part is begun again. With a lone server, gRPC does
        that, unless the connection breaks after the server has accepted it."""
        if self._call.resume and (self._cut_off or errors.is_cut_off(error)):
            self._cut_off = True
            return self._wait_s(error, ()) if errors.is_unavailable(error) else None
        if self._router.is_alone or (self._call.pieces and not replays):
            return None
        self._tried.append(self._address)
        if self._place is not None and error.code().name == "FAILED_PRECONDITION":
            return 0.0 if set(self._router.addresses) - set(self._tried) else None
        return self._attempts.pause_s(error, self._tried, self._end)

    def _wait_s(self, error: grpc.RpcError, parts: Sequence[M]) -> float | None:
        """The pause before the next attempt to go on, on another server if there is one."""
        now = self._clock()
        if len(parts) != self._parts:  # it went on since the last break
            self._parts, self._since, self._pause_s = len(parts), now, _FIRST_S
        if self._place is not None:
            self._router.forget(self._place)
        self._tried = [self._address]
        pause_s = max(self._pause_s, errors.retry_after_s(error) or 0.0)
        if now + pause_s > min(self._since + self._resume_s, self._end):
            return None
        self._pause_s = min(2 * self._pause_s, _LONGEST_S)
        return pause_s


def _text_of(request: Any, sequence_id: str) -> Message:
    """The request for a text that goes on with a sequence of another server."""
    rest = type(request)()
    rest.CopyFrom(request)
    rest.resume.sequence.text = sequence_id
    message: Message = rest
    return message


def _pieces_of(first: Any, sequence_id: str) -> Message:
    """The first message before pieces that go on with a sequence of another server."""
    rest = type(first)()
    rest.CopyFrom(first)
    rest.start.sequence.text = sequence_id
    rest.start.prompt = False
    message: Message = rest
    return message
