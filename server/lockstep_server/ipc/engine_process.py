"""The host in a process of its own: the event loop and the engines share no interpreter lock.

Frames over a socket pair. A process that dies takes down what it held, and is started again.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .. import messages
from ..errors import LoadError, unavailable
from . import frames
from .coalescing import MessageCoalescer

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

_SOCKET_BYTES = 4 << 20
_SHORT_LIFE_S = 10.0
_LONGEST_PAUSE_S = 30.0
_LAST_WORDS_S = 2.0
"""How long a process that was told to stop gets beyond its time, before it is killed."""

MODULE = "lockstep_server.ipc.engine_main"


class EngineProcess:
    """Implements `Transport`.

    `on_loss` is called when the process has died by itself, with the reason: nothing that was sent
    to it will be answered. It is being started again then.
    """

    def __init__(
        self,
        config: messages.EngineConfig,
        on_loss: Callable[[str], None],
        *,
        log: tuple[str, str] = ("info", "text"),
    ) -> None:
        self._config, self._on_loss, self._log = config, on_loss, log  # its level and form
        self._deliver: Callable[[messages.EngineUpdate], None] = lambda _: None
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._decoder = frames.Decoder()
        self._buffer = memoryview(bytearray(frames.READ_BYTES))
        self._coalescer = MessageCoalescer(self._cross)
        self._unsent: deque[memoryview] = deque()
        self._started: asyncio.Future[messages.EngineInfo] | None = None
        self._ended: asyncio.Future[None] | None = None
        self._stopping = False
        self._begun = 0.0
        self._pause_s = 0.0
        self._again: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        started = self._started
        return self._socket is not None and started is not None and started.done()

    @property
    def pid(self) -> int:
        """Of the process that runs now; 0 where there is none."""
        return self._process.pid if self._process is not None else 0

    async def start(self, deliver: Callable[[messages.EngineUpdate], None]) -> messages.EngineInfo:
        self._deliver = deliver
        return await self._spawn()

    async def _spawn(self) -> messages.EngineInfo:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
        ours.setblocking(False)
        command = [sys.executable, "-m", MODULE, str(theirs.fileno()), *self._log]
        self._begun = time.monotonic()
        self._process = subprocess.Popen(command, pass_fds=(theirs.fileno(),))  # noqa: ASYNC220
        theirs.close()
        self._socket, self._decoder = ours, frames.Decoder()
        self._unsent.clear()
        self._started, self._ended = loop.create_future(), loop.create_future()
        loop.add_reader(ours.fileno(), self._read)
        self._write([self._config])
        try:
            return await self._started
        except LoadError:
            await asyncio.to_thread(self._process.wait)
            raise
        except ConnectionResetError:
            code = await asyncio.to_thread(self._process.wait)
            raise LoadError(f"the engine process ended while it started ({_told(code)})") from None

    # --- out ----------------------------------------------------------------------------------------

    def send(self, message: messages.Message, when: messages.SendPolicy = messages.SendPolicy.TURN) -> None:
        self._coalescer.put(message, when)

    def _cross(self, batch: list[messages.Message]) -> None:
        if self._socket is not None:
            self._write(batch)
        else:
            for message in batch:
                self._bounce(message)

    def _bounce(self, message: messages.Message) -> None:
        """Nobody is there to take it."""
        away = unavailable("the engine process is being started again")
        match message:
            case messages.Submit(key, model, version) | messages.Tokenize(key, model, version):
                self._deliver(messages.Events(model, version, [messages.Event(key, None, away)]))
            case messages.Load(model):
                self._deliver(messages.LoadDone(model, "load", away.message))
            case messages.Unload(model):
                self._deliver(messages.LoadDone(model, "unload", away.message))

    def _write(self, batch: list[Any]) -> None:
        waiting = bool(self._unsent)
        self._unsent.extend(memoryview(piece).cast("B") for piece in frames.encode(batch))
        if not waiting:
            self._push()

    def _push(self) -> None:
        """Write what the socket takes now; the rest when it takes more."""
        assert self._socket is not None
        loop, number = asyncio.get_running_loop(), self._socket.fileno()
        try:
            while self._unsent:
                piece = self._unsent[0]
                sent = self._socket.send(piece)
                if sent < len(piece):
                    self._unsent[0] = piece[sent:]
                else:
                    self._unsent.popleft()
        except BlockingIOError:
            loop.add_writer(number, self._push)
            return
        except OSError:  # it is gone: the reader tells
            self._unsent.clear()
        loop.remove_writer(number)

    # --- in -----------------------------------------------------------------------------------------

    def _read(self) -> None:
        assert self._socket is not None
        try:
            count = self._socket.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            self._end()
            return
        for batch in self._decoder.feed(bytes(self._buffer[:count])):
            for message in batch:
                self._take(message)

    def _take(self, message: Any) -> None:
        match message:
            case frames.EngineStarted(about):
                if self._started is not None and not self._started.done():
                    self._started.set_result(about)
            case frames.EngineFailed(reason):
                if self._started is not None and not self._started.done():
                    self._started.set_exception(LoadError(reason))
            case _:
                self._deliver(message)

    # --- ends ---------------------------------------------------------------------------------------

    def _end(self) -> None:
        """The socket is closed at the other end."""
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket.fileno())
        loop.remove_writer(self._socket.fileno())
        self._socket.close()
        self._socket = None
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
        if self._started is not None and not self._started.done():
            self._started.set_exception(ConnectionResetError())
        elif not self._stopping and self._started is not None and self._started.exception() is None:
            self._again = asyncio.ensure_future(self._recover())

    async def _recover(self) -> None:
        """Start it again, until it stays."""
        while not self._stopping:
            assert self._process is not None
            reason = (
                f"the engine process ended by itself ({_told(await asyncio.to_thread(self._process.wait))})"
            )
            log.error("%s; it is started again", reason)
            self._on_loss(reason)
            short = time.monotonic() - self._begun < _SHORT_LIFE_S
            self._pause_s = min(max(self._pause_s * 2, 1.0), _LONGEST_PAUSE_S) if short else 0.0
            await asyncio.sleep(self._pause_s)
            try:
                await self._spawn()
            except LoadError as error:
                log.error("the engine process cannot be started again: %s", error)
            else:
                return

    async def stop(self, within_s: float) -> None:
        self._coalescer.flush()
        self._stopping = True
        if self._again is not None and not self._again.done():
            self._again.cancel()
            with suppress(asyncio.CancelledError):
                await self._again
        if self._socket is not None and self._ended is not None:
            self._write([frames.StopEngine(within_s)])
            try:
                await asyncio.wait_for(asyncio.shield(self._ended), within_s + _LAST_WORDS_S)
            except TimeoutError:
                log.error("the engine process does not end; it is killed")
        if self._process is not None:
            if self._process.poll() is None and self._socket is not None:
                self._process.kill()
            await asyncio.to_thread(self._process.wait)


def _told(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
