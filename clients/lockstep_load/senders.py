"""Sends one prepared request and records the times of its reply messages.

`PreparedRequest` → `sender` → gRPC call → `ReplyTimes`. Unary replies are not parsed. For streams, the time
and the number of tokens of each message are recorded.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc.aio

from lockstep_client import calls, protocol
from lockstep_client.routing import least_loaded
from lockstep_load import target_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from lockstep_load.plan import Target, Workload
    from lockstep_load.requests import PreparedRequest

_UNARY: dict[str, protocol.Method[Any]] = {
    "classify": protocol.CLASSIFY,
    "encode": protocol.ENCODE,
    "infer": protocol.INFER,
}
_TOKEN_STREAMS: dict[str, protocol.Method[Any]] = {
    "generate": protocol.GENERATE,
    "translate": protocol.TRANSLATE,
}


@dataclass
class ReplyTimes:
    """Times and token counts of one stream's messages, in seconds of `now`."""

    on_tokens: Callable[[float, int], None]
    now: Callable[[], float] = time.perf_counter
    first: float = 0.0
    last: float = 0.0
    tokens: int = 0
    gaps: tuple[float, ...] | list[float] = ()

    def record(self, tokens: int) -> None:
        """Record a message that carries `tokens` tokens."""
        if not tokens:
            return
        now = self.now()
        if self.tokens:
            self.gaps.append(now - self.last)  # type: ignore[union-attr]
        else:
            self.first, self.gaps = now, []
        self.last = now
        self.tokens += tokens
        self.on_tokens(now, tokens)


def sender(
    channel: grpc.aio.Channel, target: Target, workload: Workload
) -> Callable[[PreparedRequest, ReplyTimes], Awaitable[None]]:
    """A function that sends one request and fills its `ReplyTimes`. It raises grpc.aio.AioRpcError."""
    if workload.call in _UNARY:
        return unary(channel, _UNARY[workload.call].path, target_client.call_options(target))
    if workload.call in _TOKEN_STREAMS:
        return token_stream(channel, _TOKEN_STREAMS[workload.call], target_client.call_options(target))
    if workload.call == "follow":
        follow = _follow_one_by_one if workload.one_by_one else _follow
        return follow(channel, target_client.call_options(target))
    return _steps(channel, target)


def spread(
    senders: Sequence[Callable[[PreparedRequest, ReplyTimes], Awaitable[None]]],
) -> Callable[[PreparedRequest, ReplyTimes], Awaitable[None]]:
    """A sender to several servers: each request goes to one with the fewest requests in flight, as the client
    library chooses it."""
    if len(senders) == 1:
        return senders[0]
    loads, rng = [0] * len(senders), random.Random()

    async def send(request: PreparedRequest, times: ReplyTimes) -> None:
        chosen = least_loaded([(load, place) for place, load in enumerate(loads)], rng)
        loads[chosen] += 1
        try:
            await senders[chosen](request, times)
        finally:
            loads[chosen] -= 1

    return send


def unary(
    channel: grpc.aio.Channel, path: str, call_options: dict[str, Any]
) -> Callable[[PreparedRequest, ReplyTimes], Awaitable[None]]:
    """Send the request's body and drop the reply, which is not parsed."""
    call: Any = channel.unary_unary(path)

    async def send(request: PreparedRequest, _: ReplyTimes) -> None:
        await call(request.body, **call_options)

    return send


def token_stream(
    channel: grpc.aio.Channel, method: protocol.Method[Any], call_options: dict[str, Any]
) -> Callable[[PreparedRequest, ReplyTimes], Awaitable[None]]:
    """Send the request's body, and count the tokens of the reply messages."""
    call: Any = channel.unary_stream(method.path, response_deserializer=method.reply.FromString)

    async def send(request: PreparedRequest, times: ReplyTimes) -> None:
        async for reply in call(request.body, **call_options):
            times.record(len(reply.tokens))

    return send


def _follow(
    channel: grpc.aio.Channel, call_options: dict[str, Any]
) -> Callable[[PreparedRequest, ReplyTimes], Awaitable[None]]:
    """Send the whole sequence at once; the server replies with one message per element."""
    call: Any = channel.stream_stream(protocol.FOLLOW.path)

    async def messages(request: PreparedRequest) -> AsyncIterator[bytes]:
        yield request.body
        for body in request.later_bodies:
            yield body

    async def send(request: PreparedRequest, times: ReplyTimes) -> None:
        async for _ in call(messages(request), **call_options):
            times.record(1)

    return send


def _follow_one_by_one(
    channel: grpc.aio.Channel, call_options: dict[str, Any]
) -> Callable[[PreparedRequest, ReplyTimes], Awaitable[None]]:
    """Send each element after the reply to the previous one: the gap between replies is a round trip."""
    call: Any = channel.stream_stream(protocol.FOLLOW.path)

    async def send(request: PreparedRequest, times: ReplyTimes) -> None:
        stream = call(**call_options)
        with suppress(asyncio.InvalidStateError):  # the stream has ended: read() raises its status
            await stream.write(request.body)
            for body in request.later_bodies:
                await stream.write(body)
                if await stream.read() is grpc.aio.EOF:
                    break
                times.record(1)
            await stream.done_writing()
        while await stream.read() is not grpc.aio.EOF:
            pass

    return send


def _steps(
    channel: grpc.aio.Channel, target: Target
) -> Callable[[PreparedRequest, ReplyTimes], Awaitable[None]]:
    """One ModelInfer call per element with a sequence_id, as Triton's sequence clients do.

    The timeout applies to each call.
    """
    call: Any = channel.unary_unary(protocol.INFER.path)
    call_options = target_client.call_options(target)
    ids = itertools.count(random.getrandbits(40) << 20 | 1)

    async def send(request: PreparedRequest, times: ReplyTimes) -> None:
        sequence, last = next(ids), len(request.arrays) - 1
        for at, tensors in enumerate(request.arrays):
            step = calls.infer(
                target.model,
                tensors,
                version=target.version,
                sequence_id=sequence,
                sequence_start=at == 0,
                sequence_end=at == last,
            )
            await call(step.request.SerializeToString(), **call_options)
            times.record(1)

    return send
