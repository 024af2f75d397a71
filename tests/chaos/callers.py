"""Makes one call with its disturbance, and records what became of it.

The load generator's driver keeps a number of callers busy; each takes the next of a seeded plan.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from lockstep_client import protocol

from .asks import read_outcome, tensor_id
from .disturbances import NONE, WRITE_FAILED, Disturbance
from .resets import resetting_proxy

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator

    from .asks import Ask
    from .history import History

ASK_S = 60.0
"""Deadline of calls that have none: the caller gives up, and the request counts as lost."""

_NO_RETRIES = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]


class Callers:
    """The callers of one server. `channels` are shared; a connection that is to be reset has its own."""

    def __init__(self, address: str, history: History, rng: random.Random, channels: int = 4) -> None:
        self._address, self._rng = address, rng
        self.history = history
        """Of the present round."""
        self._channels = [grpc.aio.insecure_channel(address, _NO_RETRIES) for _ in range(channels)]

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()

    async def ask(self, ask: Ask, how: Disturbance = NONE) -> str:
        """Make one call. Returns the name of its status."""
        async with self._channel(how) as channel:
            if ask.method.shape == "unary_unary":
                return await self._unary(channel, ask, how)
            return await self._stream(channel, ask, how)

    @asynccontextmanager
    async def _channel(self, how: Disturbance) -> AsyncIterator[grpc.aio.Channel]:
        if how.reset_bytes is None:
            yield self._rng.choice(self._channels)
            return
        host, port = self._address.rsplit(":", 1)
        async with (
            resetting_proxy(host, int(port), how.reset_bytes) as address,
            grpc.aio.insecure_channel(address, _NO_RETRIES) as channel,
        ):
            yield channel

    def _sent(self, ask: Ask, how: Disturbance, **more: Any) -> int:
        return self.history.sent(
            ask.rpc,
            ask.expected,
            may=ask.may | how.may,
            model=ask.model,
            weight=ask.weight,
            how=how.name,
            **more,
        )

    async def _unary(self, channel: grpc.aio.Channel, ask: Ask, how: Disturbance) -> str:
        key = self._sent(ask, how)
        stub: Any = channel.unary_unary(ask.method.path, response_deserializer=ask.method.reply.FromString)
        call = stub(ask.bodies[0], timeout=how.timeout_s or ASK_S)
        with _cancelling(call, how):
            with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
                self.history.replied(key, ask.read(await call))
            status, details = await _status(call)
        self.history.ended(key, status, details)
        return status

    async def _stream(self, channel: grpc.aio.Channel, ask: Ask, how: Disturbance) -> str:
        if how.close_after is not None and ask.method.path == protocol.FOLLOW.path:
            ask = replace(ask, bodies=ask.bodies[:1], expected=(), weight=0)
        stream = _Stream(self.history, ask, how)
        stub = getattr(channel, ask.method.shape)
        call: Any = stub(ask.method.path, response_deserializer=ask.method.reply.FromString)
        timeout_s = how.timeout_s or ASK_S
        if ask.method.shape == "unary_stream":
            call = call(ask.bodies[0], timeout=timeout_s)
        else:
            call = call(stream.messages(), timeout=timeout_s)
        key = self._sent(ask, how)
        stream.call = key
        with _cancelling(call, how):
            if how.pause_s:
                await asyncio.sleep(how.pause_s)
            replies = 0
            with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
                while (reply := await call.read()) is not grpc.aio.EOF:
                    stream.take(reply)
                    replies += 1
                    if replies == how.unread:
                        call.cancel()
            status, details = await _status(call)
        stream.end(status, details)
        return status


class _Stream:
    """The requests of one stream: itself, and the items that are answered each by itself."""

    def __init__(self, history: History, ask: Ask, how: Disturbance) -> None:
        self._history, self._ask, self._how = history, ask, how
        self.call = -1
        self._items: dict[Any, int] = {}
        """Keys of the items that have not ended, by what replies say of them."""
        self._texts = 0
        self._failures: list[tuple[str, str]] = []
        """Ids and statuses of messages of tensors that failed."""
        self._over = False

    def end(self, status: str, details: str) -> None:
        """Record the end of the stream, and of all that it has not answered."""
        self._over = True
        for id_, failure in self._failures:  # ids need not be unique: any message of that id
            name = next((one for one in self._items if tensor_id(one[1]) == id_), None)
            self._history.ended(self._items.pop(name, -1), failure)
        for key in (self.call, *self._items.values()):
            self._history.ended(key, status, details)

    async def messages(self) -> AsyncIterator[bytes]:
        ask = self._ask
        count = len(ask.bodies) if self._how.close_after is None else self._how.close_after
        for index, body in enumerate(ask.bodies[:count]):
            if self._over:
                return
            if ask.items:
                self._begin(ask.items[index])
            yield body
            if index % 4 == 3:
                await asyncio.sleep(0)

    def _begin(self, item: Ask) -> None:
        """Record the texts of a message, or a message of tensors, as requests."""
        is_tensor = self._ask.method.path == protocol.INFER_MANY.path
        assert item.expected is not None
        answers = [item.expected] if is_tensor else [(one,) for one in item.expected]
        for answer in answers:
            name = answer if is_tensor else self._texts
            self._texts += 1
            self._items[name] = self._history.sent(
                self._ask.rpc,
                answer,
                may=item.may | self._how.may,
                model=item.model,
                is_call=False,
                weight=1,
                how=self._how.name,
            )

    def take(self, reply: Any) -> None:
        """Record a reply."""
        history = self._history
        if not self._ask.items:
            history.replied(self.call, self._ask.read(reply))
        elif hasattr(reply, "outcomes"):
            for outcome in reply.outcomes:
                key = self._items.pop(outcome.number, -1)
                if outcome.WhichOneof("outcome") == "failure":
                    history.ended(key, _NAMES[outcome.failure.code])
                else:
                    history.replied(key, read_outcome(outcome))
                    history.ended(key, "OK")
        elif reply.error_message:
            code = reply.error_message.split(":", 1)[0]
            self._failures.append((reply.infer_response.id, _STATUSES.get(code, code)))
        else:
            answer = self._ask.read(reply.infer_response)
            key = self._items.pop(answer, -1)
            history.replied(key, answer)
            history.ended(key, "OK")


_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
_STATUSES = {
    "overloaded": "RESOURCE_EXHAUSTED", "unavailable": "UNAVAILABLE", "deadline": "DEADLINE_EXCEEDED",
    "failed": "INTERNAL", "bad_input": "INVALID_ARGUMENT", "not_found": "NOT_FOUND",
}  # fmt: skip


async def _status(call: Any) -> tuple[str, str]:
    """The name of a call's status, and its message."""
    code, details = await call.code(), await call.details() or ""
    return WRITE_FAILED if details == _WRITE_FAILED else code.name, details


_WRITE_FAILED = "Internal error from Core"


class _cancelling:  # noqa: N801
    """Within the block, cancels a call when its time has come."""

    def __init__(self, call: Any, how: Disturbance) -> None:
        self._call, self._after_s = call, how.cancel_s

    def __enter__(self) -> None:
        self._handle = None
        if self._after_s is not None:
            self._handle = asyncio.get_running_loop().call_later(self._after_s, self._call.cancel)

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            self._handle.cancel()
