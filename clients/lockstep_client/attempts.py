"""How a unary call is tried on several servers, and how a sequence follows its state, or is begun again.

Generators that yield what to send, or how long to pause; they are sent the reply, or the error. client.py
runs them, blocking or with asyncio.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import grpc

from lockstep_client import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Hashable

    from google.protobuf.message import Message

    from lockstep_client.protocol import Call, SequenceUse
    from lockstep_client.routing import Router

OnLost = Literal["fail", "restart"]
"""What becomes of a sequence whose server is lost: its caller gets the error, or it is begun again."""

KEPT_BYTES = 64 << 20
"""Requests that a client keeps to begin sequences again; those used least recently are given up."""

_HOPS = 3
"""A call follows so many moves, and asks so many other servers for a sequence that one does not hold."""

_FIRST_S, _LONGEST_S = 0.1, 1.0
_TOKENS, _TOKEN_RATIO = 100.0, 0.1
"""As gRPC's retry throttling: no retries while more than half of the last hundred or so calls failed."""


@dataclass(frozen=True)
class Send:
    """A request to send now."""

    address: str
    request: Message
    timeout_s: float
    """Until the deadline of the call; infinity: none."""


@dataclass
class _Kept:
    requests: list[Message] = field(default_factory=list)
    size: int = 0
    busy: bool = False


class KeptSteps:
    """The answered steps of live sequences, to begin them again. Safe to use from several threads."""

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self._limit, self._size = limit, 0
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, use: SequenceUse) -> None:
        """A step is sent. A sequence with two steps in flight has no order, and is not kept."""
        with self._lock:
            if use.starts:
                self._drop(use.place)
                self._kept[use.place] = _Kept()
            if (kept := self._kept.get(use.place)) is None:
                return
            if kept.busy:
                self._drop(use.place)
            kept.busy = True

    def answered(self, use: SequenceUse, request: Message) -> None:
        """A step took effect."""
        with self._lock:
            if (kept := self._kept.get(use.place)) is None:
                return
            if use.ends:
                self._drop(use.place)
                return
            kept.busy = False
            kept.requests.append(request)
            kept.size += (size := request.ByteSize())
            self._size += size
            self._kept.move_to_end(use.place)
            while self._size > self._limit:
                self._drop(next(iter(self._kept)))

    def not_taken(self, use: SequenceUse) -> None:
        """A step was refused, and changed nothing."""
        with self._lock:
            if kept := self._kept.get(use.place):
                kept.busy = False

    def drop(self, use: SequenceUse) -> None:
        """Whether a step took effect is not known, or the sequence has ended."""
        with self._lock:
            self._drop(use.place)

    def steps(self, use: SequenceUse) -> list[Message] | None:
        """All steps so far; None if they are not known."""
        with self._lock:
            kept = self._kept.get(use.place)
            return list(kept.requests) if kept else None

    def _drop(self, place: Hashable) -> None:
        if kept := self._kept.pop(place, None):
            self._size -= kept.size


class Attempts:
    """Tries calls.

    Args:
        retries: of one call, at most.
        resume_s: how long a lost sequence is tried to be begun again.
        may_call: whether a server that another one names may be called, with the token of this client.
        ended: is given the server of each call that has ended.
    """

    def __init__(
        self,
        router: Router,
        retries: int,
        resume_s: float,
        on_lost: OnLost,
        may_call: Callable[[str], bool],
        ended: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._router, self._retries, self._resume_s = router, retries, resume_s
        self._may_call, self._ended, self._clock = may_call, ended, clock
        self._kept = KeptSteps() if on_lost == "restart" else None
        self._tokens = _TOKENS

    def one_shot(self, call: Call[Any], timeout_s: float) -> Generator[Send | float, Any, Any]:
        """A call that any server answers."""
        end, tried = self._clock() + timeout_s, list[str]()
        while True:
            address = self._router.choose(avoid=tried)
            try:
                return (yield from self._send(address, call.request, end))
            except grpc.RpcError as error:
                tried.append(address)
                if (pause_s := self.pause_s(error, tried, end)) is None:
                    raise
            yield pause_s

    def pause_s(self, error: grpc.RpcError, tried: list[str], end: float) -> float | None:
        """How long to wait before a call that failed on these servers is sent again; None: it is not."""
        if not errors.is_retryable(error):
            return None
        self._tokens = max(0.0, self._tokens - 1)
        if len(tried) > self._retries or self._tokens <= _TOKENS / 2:
            return None
        if set(self._router.addresses) - set(tried):
            return 0.0
        pause_s = max(errors.retry_after_s(error) or 0.0, _backoff_s(len(tried)))
        return pause_s if self._clock() + pause_s < end else None

    def report(self, address: str, error: grpc.RpcError | None) -> None:
        """A call to a server was answered, or failed."""
        if error is None:
            self._tokens = min(_TOKENS, self._tokens + _TOKEN_RATIO)
            self._router.answered(address)
        elif errors.is_unavailable(error):
            self._router.failed(address)
        elif error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            self._router.late(address)

    def follow(self, error: grpc.RpcError) -> errors.Moved | None:
        """Where a sequence has been moved to; None if it has not, or if that server may not be called."""
        moved = errors.moved_to(error)
        return moved if moved and self._may_call(moved.address) else None

    def of_sequence(self, call: Call[Any], timeout_s: float) -> Generator[Send | float, Any, Any]:
        """A call of a sequence: to the server that has it."""
        assert call.sequence is not None
        use, end = call.sequence, self._clock() + timeout_s
        kept = self._kept if use.steps else None
        if kept:
            kept.begin(use)
        try:
            address, reply = yield from self._to_its_server(call, use, end)
        except grpc.RpcError as error:
            if kept and errors.is_refusal(error):
                kept.not_taken(use)
            elif kept:
                kept.drop(use)
            raise
        except BaseException:  # cancelled
            if kept:
                kept.drop(use)
            raise
        if kept:
            kept.answered(use, call.request)
        place = call.placed(reply) if call.placed else use.place
        if use.ends:
            self._router.forget(place)
        else:
            self._router.place(place, address)
        return reply

    def _to_its_server(
        self, call: Call[Any], use: SequenceUse, end: float
    ) -> Generator[Send | float, Any, tuple[str, Any]]:
        address, tried, hops = self._router.choose(use.key, use.place), list[str](), 0
        first: grpc.RpcError | None = None
        while True:
            try:
                return address, (yield from self._send(address, call.request, end))
            except grpc.RpcError as error:
                first = first or error
                tried.append(address)
                moved = self.follow(error)
                if moved and hops < _HOPS:
                    address, hops = moved.address, hops + 1
                    self._router.place(use.place, address)
                    continue
                elsewhere = len(tried) <= _HOPS and set(self._router.addresses) - set(tried)
                if elsewhere and _is_not_here(error, use):
                    address = self._router.choose(use.key, use.place, avoid=tried)
                    continue
                steps = self._kept.steps(use) if self._kept and use.steps else None
                if steps is None or not errors.is_lost(error):
                    raise first from None
            return (yield from self._again([*steps, call.request], use, address, end))

    def _again(
        self, requests: list[Message], use: SequenceUse, lost: str, end: float
    ) -> Generator[Send | float, Any, tuple[str, Any]]:
        """Begin a lost sequence again: send all of its steps, to one server."""
        until, attempt = min(end, self._clock() + self._resume_s), 0
        self._router.forget(use.place)
        while True:
            address = self._router.choose(use.key, avoid=[lost])
            try:
                reply = None
                for request in requests:
                    reply = yield from self._send(address, request, end)
                return address, reply
            except grpc.RpcError as error:
                attempt, lost = attempt + 1, address
                pause_s = max(errors.retry_after_s(error) or 0.0, _backoff_s(attempt))
                again = errors.is_lost(error) or errors.is_retryable(error)
                if not again or self._clock() + pause_s > until:
                    raise
            yield pause_s

    def _send(self, address: str, request: Message, end: float) -> Generator[Send | float, Any, Any]:
        self._router.begin(address)
        try:
            outcome = yield Send(address, request, max(end - self._clock(), 0.0))
        finally:
            self._ended(address)
        failed = isinstance(outcome, grpc.RpcError)
        self.report(address, outcome if failed else None)
        if failed:
            raise outcome
        return outcome


def _is_not_here(error: grpc.RpcError, use: SequenceUse) -> bool:
    """Whether the call has not taken effect, and may do so on another server."""
    if errors.is_unreachable(error):
        return True
    if use.starts:  # a start ends a sequence of the same id, so it may be sent twice
        return use.steps and errors.is_unavailable(error)
    return error.code() is grpc.StatusCode.FAILED_PRECONDITION


def _backoff_s(attempt: int) -> float:
    return min(_FIRST_S * 2.0 ** (attempt - 1), _LONGEST_S)
