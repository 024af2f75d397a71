"""Runs the engine in a separate process, so that it does not share an interpreter lock with the event loop.

send -> coalescer -> frames -> socket pair -> `engine_main`, and its updates back the same way. If the
process dies, all its requests fail and it is restarted.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from .. import messages
from ..errors import LoadError, unavailable
from . import frames
from .coalescing import MessageCoalescer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

log = logging.getLogger(__name__)

_SOCKET_BYTES = 4 << 20
_CRASH_LOOP_S = 10.0
"""A process that dies sooner than this after its start is restarted after a pause."""

_MAX_PAUSE_S = 30.0
_STOP_GRACE_S = 2.0
"""How long to wait for the process beyond its stop timeout before killing it."""

MODULE = "lockstep_server.ipc.engine_main"


class EngineProcess:
    """Implements `Transport`.

    Args:
        on_loss: called with the reason when the process has died. No message sent to that process will be
            answered; a new process is being started.
        log: log level and format of the engine process.
        on_restart: awaited when a new process has started in place of one that died.
        restart_config: makes the configuration of that process.
    """

    def __init__(
        self,
        config: messages.EngineConfig,
        on_loss: Callable[[str], None],
        *,
        log: tuple[str, str] = ("info", "text"),
        on_restart: Callable[[], Awaitable[None]] | None = None,
        restart_config: Callable[[messages.EngineConfig], messages.EngineConfig] = lambda config: config,
    ) -> None:
        self._on_restart, self._restart_config = on_restart, restart_config
        self._config, self._on_loss, self._log = config, on_loss, log
        self._deliver: Callable[[messages.EngineUpdate], None] = lambda _: None
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._encoder, self._decoder = frames.Encoder(), frames.Decoder()
        self._buffer = memoryview(bytearray(frames.READ_BYTES))
        self._coalescer = MessageCoalescer(self._send_batch)
        self._unsent: deque[memoryview] = deque()
        self._started: asyncio.Future[messages.EngineInfo] | None = None
        self._ended: asyncio.Future[None] | None = None
        self._stopping = False
        self._spawned_at = 0.0
        self._pause_s = 0.0
        self._restart: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        started = self._started
        return self._socket is not None and started is not None and started.done()

    @property
    def pid(self) -> int:
        """Process id of the engine process; 0 before the start."""
        return self._process.pid if self._process is not None else 0

    async def start(self, deliver: Callable[[messages.EngineUpdate], None]) -> messages.EngineInfo:
        self._deliver = deliver
        return await self._spawn(self._config)

    async def _spawn(self, config: messages.EngineConfig) -> messages.EngineInfo:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        for side in (ours, theirs):
            side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
        ours.setblocking(False)
        command = [sys.executable, "-m", MODULE, str(theirs.fileno()), *self._log]
        self._spawned_at = time.monotonic()
        with _signals_blocked():
            self._process = subprocess.Popen(command, pass_fds=(theirs.fileno(),))  # noqa: ASYNC220
        theirs.close()
        self._socket, self._decoder = ours, frames.Decoder()
        self._unsent.clear()
        self._started, self._ended = loop.create_future(), loop.create_future()
        loop.add_reader(ours.fileno(), self._read)
        self._write([config])
        try:
            return await self._started
        except LoadError:
            await asyncio.to_thread(self._process.wait)
            raise
        except ConnectionResetError:
            code = await asyncio.to_thread(self._process.wait)
            raise LoadError(f"the engine process died during startup ({_exit_text(code)})") from None

    # --- sending ------------------------------------------------------------------------------------

    def send(self, message: messages.Message, when: messages.SendPolicy = messages.SendPolicy.TURN) -> None:
        self._coalescer.put(message, when)

    def _send_batch(self, batch: list[messages.Message]) -> None:
        if self._socket is not None:
            self._write(batch)
        else:
            for message in batch:
                self._reject(message)

    def _reject(self, message: messages.Message) -> None:
        """Answer a message with UNAVAILABLE while no process is running."""
        error = unavailable("the engine process is restarting")
        match message:
            case messages.Infer() | messages.Generate() | messages.Step():
                ended = messages.Event(key=message.key, error=error)
                self._deliver(messages.Events(model=message.model, version=message.version, events=[ended]))
            case messages.Load() | messages.Unload():
                verb = "load" if isinstance(message, messages.Load) else "unload"
                done = messages.LoadDone(message.model, verb, error.message, message.key, temporary=True)
                self._deliver(done)

    def _write(self, batch: list[Any]) -> None:
        blocked = bool(self._unsent)
        self._unsent.extend(memoryview(part).cast("B") for part in self._encoder.encode(batch))
        if not blocked:
            self._write_unsent()

    def _write_unsent(self) -> None:
        """Write as much as the socket accepts now, and the rest once it is writable again."""
        assert self._socket is not None
        loop, descriptor = asyncio.get_running_loop(), self._socket.fileno()
        try:
            while self._unsent:
                part = self._unsent[0]
                sent = self._socket.send(part)
                if sent < len(part):
                    self._unsent[0] = part[sent:]
                else:
                    self._unsent.popleft()
        except BlockingIOError:
            loop.add_writer(descriptor, self._write_unsent)
            return
        except OSError:  # the process died: `_read` handles it
            self._unsent.clear()
        loop.remove_writer(descriptor)

    # --- receiving ----------------------------------------------------------------------------------

    def _read(self) -> None:
        assert self._socket is not None
        try:
            count = self._socket.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            self._disconnected()
            return
        for batch in self._decoder.feed(bytes(self._buffer[:count])):
            for message in batch:
                self._receive(message)

    def _receive(self, message: Any) -> None:
        match message:
            case messages.EngineStarted():
                if self._started is not None and not self._started.done():
                    self._started.set_result(message.info)
            case messages.EngineFailed():
                if self._started is not None and not self._started.done():
                    self._started.set_exception(LoadError(message.reason))
            case _:
                self._deliver(message)

    # --- restart and stop ---------------------------------------------------------------------------

    def _disconnected(self) -> None:
        """The engine process closed its end of the socket."""
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
        elif self._stopping or self._started is None or self._started.cancelled():
            return
        elif self._started.exception() is None:
            self._restart = asyncio.ensure_future(self._recover())

    async def _recover(self) -> None:
        """Report the loss and restart the process, until a start succeeds."""
        while not self._stopping:
            assert self._process is not None
            code = await asyncio.to_thread(self._process.wait)
            reason = f"the engine process died ({_exit_text(code)})"
            log.error("%s; restarting it", reason)
            self._on_loss(reason)
            crash_loop = time.monotonic() - self._spawned_at < _CRASH_LOOP_S
            self._pause_s = min(max(self._pause_s * 2, 1.0), _MAX_PAUSE_S) if crash_loop else 0.0
            await asyncio.sleep(self._pause_s)
            try:
                await self._spawn(self._restart_config(self._config))
            except LoadError as error:
                log.error("restart of the engine process failed: %s", error)
            else:
                if self._on_restart is not None:
                    await self._on_restart()
                return

    async def stop(self, within_s: float) -> None:
        self._coalescer.flush()
        self._stopping = True
        if self._restart is not None and not self._restart.done():
            self._restart.cancel()
            with suppress(asyncio.CancelledError):
                await self._restart
        if self._socket is not None and self._ended is not None:
            self._write([messages.StopEngine(within_s)])
            try:
                await asyncio.wait_for(asyncio.shield(self._ended), within_s + _STOP_GRACE_S)
            except TimeoutError:
                log.error("the engine process did not stop in time; killing it")
        if self._process is not None:
            if self._process.poll() is None and self._socket is not None:
                self._process.kill()
            await asyncio.to_thread(self._process.wait)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Start a process that Ctrl-C and SIGTERM do not end: until it ignores them, they are blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _exit_text(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
