"""How each kind of request is made: bytes out, and of what comes back only what is counted.

Answers of one message are not parsed. Of streams, the times of the messages and their numbers of tokens.
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
from lockstep_load import target_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from lockstep_load.plan import Target, Workload
    from lockstep_load.requests import PreparedRequest

_ONE_ANSWER: dict[str, protocol.Method[Any]] = {
    "classify": protocol.CLASSIFY,
    "encode": protocol.ENCODE,
    "infer": protocol.INFER,
}
_MADE_TEXT: dict[str, protocol.Method[Any]] = {"generate": protocol.GENERATE, "translate": protocol.TRANSLATE}


@dataclass
class ReplyReader:
    """The messages of one stream. Times are time.perf_counter()."""

    made: Callable[[float, int], None]
    first: float = 0.0
    last: float = 0.0
    tokens: int = 0
    gaps: tuple[float, ...] | list[float] = ()

    def message(self, tokens: int) -> None:
        """A message came with so many tokens."""
        if not tokens:
            return
        now = time.perf_counter()
        if self.tokens:
            self.gaps.append(now - self.last)  # type: ignore[union-attr]
        else:
            self.first, self.gaps = now, []
        self.last = now
        self.tokens += tokens
        self.made(now, tokens)


def caller(
    channel: grpc.aio.Channel, target: Target, workload: Workload
) -> Callable[[PreparedRequest, ReplyReader], Awaitable[None]]:
    """What asks one request, and reads its answer into a `Reading`. It raises what gRPC raises."""
    if workload.kind in _ONE_ANSWER:
        return _one_answer(channel, _ONE_ANSWER[workload.kind].path, target_client.how(target))
    if workload.kind in _MADE_TEXT:
        return _made_text(channel, _MADE_TEXT[workload.kind], target_client.how(target))
    if workload.kind == "follow":
        follow = _one_by_one if workload.one_by_one else _follow
        return follow(channel, target_client.how(target))
    return _steps(channel, target)


def _one_answer(
    channel: grpc.aio.Channel, path: str, how: dict[str, Any]
) -> Callable[[PreparedRequest, ReplyReader], Awaitable[None]]:
    call: Any = channel.unary_unary(path)

    async def ask(request: PreparedRequest, _: ReplyReader) -> None:
        await call(request.body, **how)

    return ask


def _made_text(
    channel: grpc.aio.Channel, method: protocol.Method[Any], how: dict[str, Any]
) -> Callable[[PreparedRequest, ReplyReader], Awaitable[None]]:
    call: Any = channel.unary_stream(method.path, response_deserializer=method.reply.FromString)

    async def ask(request: PreparedRequest, reading: ReplyReader) -> None:
        async for reply in call(request.body, **how):
            reading.message(len(reply.tokens))

    return ask


def _follow(
    channel: grpc.aio.Channel, how: dict[str, Any]
) -> Callable[[PreparedRequest, ReplyReader], Awaitable[None]]:
    """The whole sequence is sent at once; there is one message for each element."""
    call: Any = channel.stream_stream(protocol.FOLLOW.path)

    async def said(request: PreparedRequest) -> AsyncIterator[bytes]:
        yield request.body
        for body in request.more:
            yield body

    async def ask(request: PreparedRequest, reading: ReplyReader) -> None:
        async for _ in call(said(request), **how):
            reading.message(1)

    return ask


def _one_by_one(
    channel: grpc.aio.Channel, how: dict[str, Any]
) -> Callable[[PreparedRequest, ReplyReader], Awaitable[None]]:
    """An element is sent when the one before is answered: from message to message is a round trip."""
    call: Any = channel.stream_stream(protocol.FOLLOW.path)

    async def ask(request: PreparedRequest, reading: ReplyReader) -> None:
        stream = call(**how)
        with suppress(asyncio.InvalidStateError):  # nothing more can be sent: reading tells why
            await stream.write(request.body)
            for body in request.more:
                await stream.write(body)
                if await stream.read() is grpc.aio.EOF:
                    break
                reading.message(1)
            await stream.done_writing()
        while await stream.read() is not grpc.aio.EOF:
            pass

    return ask


def _steps(
    channel: grpc.aio.Channel, target: Target
) -> Callable[[PreparedRequest, ReplyReader], Awaitable[None]]:
    """A round trip for each element, as a caller steps a sequence on Triton. The timeout is each step's."""
    call: Any = channel.unary_unary(protocol.INFER.path)
    how = target_client.how(target)
    ids = itertools.count(random.getrandbits(40) << 20 | 1)

    async def ask(request: PreparedRequest, reading: ReplyReader) -> None:
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
            await call(step.request.SerializeToString(), **how)
            reading.message(1)

    return ask
