"""The connection of one of several front ends to the engine process, which the supervisor starts."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .. import messages
from ..errors import failed, unavailable
from .coalescing import MessageCoalescer
from .connection import Connection, rejection

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..errors import ServingError

log = logging.getLogger(__name__)

_CONNECT_AGAIN_S = 0.1
"""Pause before the next attempt to connect, if the queue of the listener is full."""


class EngineConnection:
    """Implements `Transport`.

    Args:
        path: of the engine's listener. It is there before the engine, and stays when the engine ends.
        number: of this front end.
        on_engine: called with the description of an engine, before its first update is delivered.
        on_loss: called with the reason when the engine process has ended.
        on_return: awaited when another one has described its models.
        drained: called when this front end has finished, before it waits for the end of the engine.
    """

    def __init__(
        self,
        path: str,
        number: int,
        on_engine: Callable[[messages.EngineInfo], None],
        on_loss: Callable[[str], None],
        on_return: Callable[[], Awaitable[None]],
        drained: Callable[[float], None],
    ) -> None:
        self._path, self._number = path, number
        self._on_engine, self._on_loss, self._on_return = on_engine, on_loss, on_return
        self._drained = drained
        self._early: list[messages.EngineUpdate] = []  # came before the description of the engine
        self._deliver: Callable[[messages.EngineUpdate], None] = lambda _: None
        self._connection: Connection | None = None
        self._started: asyncio.Future[messages.EngineInfo] | None = None
        self._ended = asyncio.Event()
        self._returning: asyncio.Task[None] | None = None
        self._stopping = False
        self._coalescer = MessageCoalescer(self._send_batch)
        self.send = self._coalescer.put
        self.recovers = True  # as the supervisor says

    @property
    def up(self) -> bool:
        started = self._started
        return self._connection is not None and started is not None and started.done()

    @property
    def pid(self) -> int:
        return 0

    async def start(self, deliver: Callable[[messages.EngineUpdate], None]) -> messages.EngineInfo:
        self._deliver = deliver
        return await self._connect()

    async def _connect(self) -> messages.EngineInfo:
        """Connect, and wait until an engine has described its models."""
        loop = asyncio.get_running_loop()
        while True:
            ours = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            ours.setblocking(False)
            try:
                await loop.sock_connect(ours, self._path)
            except OSError:
                ours.close()
                await asyncio.sleep(_CONNECT_AGAIN_S)
                continue
            self._started = loop.create_future()
            self._connection = Connection(
                ours,
                "the engine process",
                self._receive,
                self._disconnected,
                broken=self._break,
                unsendable=lambda message: self._reject(message, failed(getattr(message, "model", ""))),
            )
            self._connection.write([messages.FrontEndHello(self._number)])
            with suppress(ConnectionResetError):  # that engine ended too
                return await self._started

    # --- sending ------------------------------------------------------------------------------------

    def _send_batch(self, batch: list[messages.Message]) -> None:
        if self._connection is not None:
            self._connection.write(batch)
        else:
            for message in batch:
                self._reject(message, unavailable("the engine process is restarting"))

    def _reject(self, message: messages.Message, error: ServingError) -> None:
        """Answer a message that cannot be sent. Not at once: its sender does not know its key yet."""
        if (update := rejection(message, error)) is not None:
            asyncio.get_running_loop().call_soon(self._deliver, update)

    # --- receiving ----------------------------------------------------------------------------------

    def _receive(self, message: Any) -> None:
        if self.up:
            self._deliver(message)
        elif not isinstance(message, messages.EngineStarted):
            self._early.append(message)
        elif self._started is not None:
            self._on_engine(message.info)
            early, self._early = self._early, []
            for update in early:
                self._deliver(update)
            self._started.set_result(message.info)

    def _break(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._disconnected()

    def _disconnected(self) -> None:
        """The engine process has ended, or ends."""
        self._connection = None
        self._early.clear()
        self._ended.set()
        if self._started is not None and not self._started.done():
            self._started.set_exception(ConnectionResetError())
        elif not self._stopping:
            try:
                self._on_loss("the engine process died")
            finally:
                self._returning = asyncio.ensure_future(self._return())

    async def _return(self) -> None:
        await self._connect()
        await self._on_return()

    # --- stop ---------------------------------------------------------------------------------------

    async def stop(self, within_s: float) -> None:
        """Wait until the supervisor has stopped the engine: when all front ends have finished."""
        self._coalescer.flush()
        self._stopping = True
        if self._returning is not None and not self._returning.done():
            self._returning.cancel()
        self._drained(within_s)
        if self._connection is not None:
            self._ended.clear()
            await self._ended.wait()
