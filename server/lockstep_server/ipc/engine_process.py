"""Runs the engine in a separate process, so that it does not share an interpreter lock with the event loop.

send -> coalescer -> frames -> socket pair -> `engine_main`, and its updates back the same way. If the
process dies, all its requests fail and it is restarted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from contextlib import suppress
from subprocess import TimeoutExpired
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from .. import messages
from ..errors import LoadError, failed, unavailable
from .child_process import ENGINE, ChildProcess, exit_text
from .coalescing import MessageCoalescer
from .connection import Connection, rejection
from .heartbeat import Heartbeat

if TYPE_CHECKING:
    import socket
    import subprocess
    from collections.abc import Awaitable, Callable

    from ..errors import ServingError

log = logging.getLogger(__name__)

_CRASH_LOOP_S = 10.0
"""A process that dies sooner than this after its start is restarted after a pause."""

_MAX_PAUSE_S = 30.0
_STOP_GRACE_S = 2.0
"""How long to wait for the process beyond its stop timeout before killing it."""

_MAX_DEADLY_LOADS = 2
"""A model is not loaded any more once this many processes have ended, one after another, in its load."""

_EXIT_S = 5.0
"""How long to wait for a killed process."""


class EngineProcess:
    """Implements `Transport`.

    Args:
        on_loss: called with the reason when the process has died. No message sent to that process will be
            answered; a new process is being started.
        on_start: called when an attempt to restart the process has failed or succeeded: see `recovers`.
        on_hang: called before a process is killed that does not answer.
        log: log level and format of the engine process.
        first: the process, started before this; None: `start` starts it.
        on_restart: awaited when a new process has started in place of one that died.
        restart_config: makes the configuration of that process.
        listener: where the process accepts the connections of several front ends; None: there is only this
            one. It outlives the process: front ends connect to the next one.
    """

    def __init__(
        self,
        config: messages.EngineConfig,
        on_loss: Callable[[str], None],
        on_start: Callable[[], None] = lambda: None,
        on_hang: Callable[[], None] = lambda: None,
        *,
        log: tuple[str, str] = ("info", "text"),
        first: ChildProcess | None = None,
        on_restart: Callable[[], Awaitable[None]] | None = None,
        restart_config: Callable[[messages.EngineConfig], messages.EngineConfig] = lambda config: config,
        listener: socket.socket | None = None,
    ) -> None:
        self._listener = listener
        self._on_restart, self._restart_config = on_restart, restart_config
        self._config, self._log, self._first = config, log, first
        self._on_loss, self._on_start, self._on_hang = on_loss, on_start, on_hang
        self._deliver: Callable[[messages.EngineUpdate], None] = lambda _: None
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._coalescer = MessageCoalescer(self._send_batch)
        self.send = self._coalescer.put
        self._started: asyncio.Future[messages.EngineInfo] | None = None
        self._ended: asyncio.Future[None] | None = None
        self._stopping = False
        self._spawned_at = 0.0
        self._pause_s = 0.0
        self._restart: asyncio.Task[None] | None = None
        self._failed_starts = 0  # since the last one that succeeded
        self._heartbeat = Heartbeat(lambda: self.up, self._ask, self._hung)
        self._killed_because = ""
        self._exclusions = _Exclusions()

    @property
    def up(self) -> bool:
        started = self._started
        return self._connection is not None and started is not None and started.done()

    @property
    def recovers(self) -> bool:
        return not self._failed_starts

    @property
    def pid(self) -> int:
        """Process id of the engine process; 0 before the start."""
        return self._process.pid if self._process is not None else 0

    async def start(self, deliver: Callable[[messages.EngineUpdate], None]) -> messages.EngineInfo:
        self._deliver = deliver
        return await self._spawn()

    async def _spawn(self, *, again: bool = False) -> messages.EngineInfo:
        """
        Raises:
            LoadError: the process could not start.
            OSError: the system has no process, memory or descriptor for it.
        """
        loop = asyncio.get_running_loop()
        config = self._restart_config(self._config) if again else self._config
        config = replace(config, excluded=self._exclusions.excluded)
        self._spawned_at = time.monotonic()
        listener = [] if self._listener is None else [self._listener.fileno()]
        child, self._first = self._first, None
        if child is None:
            child = ChildProcess(ENGINE, *self._log, *map(str, listener), keep=listener)
        self._process = child.process
        self._started, self._ended = loop.create_future(), loop.create_future()
        self._connection = Connection(
            child.socket,
            "the engine process",
            self._receive,
            self._disconnected,
            broken=lambda: self._kill("the engine process sent what cannot be read"),
            unsendable=lambda message: self._reject(message, failed(getattr(message, "model", ""))),
        )
        self._connection.write([config])
        self._heartbeat.start(self._connection)
        try:
            return await self._started
        except LoadError:
            await self._exit_code()
            raise
        except ConnectionResetError:
            reason = await self._exit_reason()
            raise LoadError(f"the engine process died during startup ({reason})") from None

    # --- an end that the process does not choose ----------------------------------------------------

    def _ask(self) -> None:
        if self._connection is not None:
            self._connection.write([messages.Heartbeat()])

    def _hung(self, seconds: float) -> None:
        self._on_hang()
        self._kill(f"the engine process did not answer for {seconds:g} s")

    def _kill(self, reason: str) -> None:
        """Kill the process, and treat its connection as closed: a stopped process might keep it open."""
        if self._killed_because or self._process is None or self._connection is None:
            return
        log.error("%s; killing it", reason)
        self._killed_because = reason
        self._process.kill()
        self._connection.close()
        self._disconnected()

    async def _exit_code(self) -> int | None:
        """The exit code; None if the process does not end, which is then left to the system."""
        assert self._process is not None
        with suppress(TimeoutExpired):
            return await asyncio.to_thread(self._process.wait, _EXIT_S)
        log.error("the engine process %d does not end although it was killed", self._process.pid)
        return None

    async def _exit_reason(self) -> str:
        code = await self._exit_code()
        killed_because, self._killed_because = self._killed_because, ""
        if killed_because:
            return killed_because
        return "it does not end" if code is None else exit_text(code)

    # --- sending ------------------------------------------------------------------------------------

    def _send_batch(self, batch: list[messages.Message]) -> None:
        for message in batch:
            if isinstance(message, messages.Load):
                self._exclusions.readmit(message.model)
        if self._connection is not None:
            self._connection.write(batch)
        else:
            error = unavailable("the engine process is restarting")
            for message in batch:
                self._reject(message, error)

    def _reject(self, message: messages.Message, error: ServingError) -> None:
        """Answer a message that cannot be sent. Not at once: its sender does not know its key yet."""
        if (update := rejection(message, error)) is not None:
            asyncio.get_running_loop().call_soon(self._deliver, update)

    def _receive(self, message: Any) -> None:
        if type(message) is messages.Events:  # nearly all are
            self._deliver(message)
            return
        match message:
            case messages.Heartbeat():
                pass  # that something came is all that counts
            case messages.LoadStarted():
                self._exclusions.readmit(message.model)  # a front end may have asked for it
                self._exclusions.load_started(message.model)
            case messages.ModelStuck():
                self._exclusions.exclude(message.model, message.reason)
                self._deliver(message)
                self._kill(f"a run or load of model {message.model!r} did not end")
            case messages.EngineStarted():
                if self._started is not None and not self._started.done():
                    self._started.set_result(message.info)
            case messages.EngineFailed():
                if self._started is not None and not self._started.done():
                    self._started.set_exception(LoadError(message.reason))
            case _:
                loaded = isinstance(message, messages.ModelUpdate) and message.state != "LOADING"
                if loaded or isinstance(message, messages.LoadDone):
                    self._exclusions.load_ended(message.model)
                self._deliver(message)

    # --- restart and stop ---------------------------------------------------------------------------

    def _disconnected(self) -> None:
        """The engine process closed its end of the socket."""
        self._connection = None
        self._heartbeat.stop()
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
        reason = f"the engine process died ({await self._exit_reason()})"
        log.error("%s; restarting it", reason)
        self._exclusions.process_ended()
        try:
            self._on_loss(reason)
        except Exception:
            log.exception("reporting the loss of the engine process failed")
        while not self._stopping:
            crash_loop = time.monotonic() - self._spawned_at < _CRASH_LOOP_S
            self._pause_s = min(max(self._pause_s * 2, 1.0), _MAX_PAUSE_S) if crash_loop else 0.0
            await asyncio.sleep(self._pause_s)
            try:
                await self._spawn(again=True)
            except Exception as error:  # no descriptor, no memory, no process: there may be one later
                self._failed_starts += 1
                self._exclusions.process_ended()
                log.error("restart of the engine process failed: %s", error)
                self._on_start()
            else:
                self._failed_starts = 0
                self._on_start()
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
        if self._connection is not None and self._ended is not None:
            self._connection.write([messages.StopEngine(within_s)])
            try:
                await asyncio.wait_for(asyncio.shield(self._ended), within_s + _STOP_GRACE_S)
            except TimeoutError:
                log.error("the engine process did not stop in time; killing it")
        self._heartbeat.stop()
        if self._process is not None:
            if self._process.poll() is None and self._connection is not None:
                self._process.kill()
            await self._exit_code()


class _Exclusions:
    """Models that the next engine process does not load, since they ended those before it.

    `excluded`: the reasons by model, until a caller asks for the model's load.
    """

    def __init__(self) -> None:
        self.excluded: dict[str, str] = {}
        self._loading: set[str] = set()
        self._suspects: Counter[str] = Counter()  # models that were being loaded when a process ended

    def exclude(self, model: str, reason: str) -> None:
        self.excluded = {**self.excluded, model: reason}

    def readmit(self, model: str) -> None:
        self.excluded = {name: why for name, why in self.excluded.items() if name != model}

    def load_started(self, model: str) -> None:
        self._loading.add(model)

    def load_ended(self, model: str) -> None:
        self._loading.discard(model)
        self._suspects.pop(model, None)

    def process_ended(self) -> None:
        """Exclude the models during whose loads processes ended time and again."""
        self._suspects.update(self._loading)
        for model in self._loading:
            if self._suspects[model] >= _MAX_DEADLY_LOADS:
                reason = f"the engine process ended {_MAX_DEADLY_LOADS} times while it loaded this model"
                log.error("model %s is not loaded any more: %s", model, reason)
                self.exclude(model, reason)
                del self._suspects[model]
        self._loading.clear()
