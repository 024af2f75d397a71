"""Main program of the engine process: frames -> messages -> `LoadedModels` -> updates -> frames.

`ipc/child_process.py` starts it. It exits on `StopEngine`, and when the socket closes, so no engine
process outlives a front end that was killed. Several front ends connect to its listener (`front_ends.py`).
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import sys
import threading
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from .. import logs, memory, messages
from ..errors import LoadError
from . import frames, front_ends
from .child_process import SOCKET_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ..engine.models import LoadedModels

log = logging.getLogger(__name__)

_MAX_INLINE_EVENTS = 4
"""Largest update, in events and chunks, that the reporting thread encodes itself."""

_MAX_INLINE_BYTES = 16 * 1024
"""Largest outputs of a one-shot run that the reporting thread encodes itself, however many requests it had:
on a small machine the writer thread would take a core, and the interpreter lock, from the next run."""

_STAND_BY_S = 0.05
"""How often the thread that does not read looks whether the other one has stopped reading."""

_SWITCH_INTERVAL_S = 0.0005
"""Python's thread switch interval: how long an engine thread waits for one that encodes or decodes."""


class _FrameWriter:
    """Writes messages to the socket as frames, in order.

    The calling thread writes a small message itself if none is queued. A writer thread encodes all others
    while the engine threads run their sessions.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._encoder = connection, frames.Encoder()
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._lock = threading.Lock()
        self._queued = 0
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    def put(self, message: Any) -> None:
        with self._lock:
            if self._queued or not _is_small(message):
                self._queued += 1
                self._queue.put(message)
            else:
                self._write([message])

    def close(self) -> None:
        """Write all queued messages, then stop the writer thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (message := self._queue.get()) is not None:
            batch = [message]
            while not self._queue.empty() and message is not None:
                message = self._queue.get()
                batch.append(message)
            if message is None:
                batch.pop()
            self._write(batch)
            with self._lock:
                self._queued -= len(batch)
            if message is None:
                return

    def _write(self, batch: list[Any]) -> None:
        try:
            for part in frames.encode_each(self._encoder, batch):
                self._connection.sendall(part)
        except OSError:
            log.debug("connection to the front end closed")


def _is_small(message: Any) -> bool:
    """Whether encoding the message is cheaper than waking the writer thread."""
    if not isinstance(message, messages.Events):
        return False
    if len(message.events) + len(message.chunks) <= _MAX_INLINE_EVENTS:
        return True
    if message.chunks or message.sequences is not None:  # of steps, which follow one another at once
        return False
    outputs = [event.outputs for event in message.events if event.outputs is not None]
    return sum([array.nbytes for arrays in outputs for array in arrays.values()]) <= _MAX_INLINE_BYTES


def serve(connection: socket.socket, listener: socket.socket | None = None) -> int:
    """Run the engine until `StopEngine` or the end of the connection.

    Args:
        connection: to the front end, or to the supervisor of those that connect to `listener`.

    Returns:
        The exit code: 1 if the engine could not start.
    """
    from ..engine.models import LoadedModels  # while the front end is imported

    received = _receive(connection, frames.Decoder())
    if (batch := next(received, None)) is None:
        return 0  # the front end could not start
    config, *first = batch
    assert isinstance(config, messages.EngineConfig)
    writer = _FrameWriter(connection)
    several = None if listener is None else front_ends.FrontEnds(writer)
    try:
        engine = LoadedModels(config)
        memory.keep_all()  # but nothing of a model, which may be unloaded
        engine.start(writer.put if several is None else several.report)
    except LoadError as error:
        writer.put(messages.EngineFailed(str(error)))
        writer.close()
        return 1
    writer.put(messages.EngineStarted(engine.info))
    engine.receive(first)
    if listener is not None and several is not None:
        front_ends.accept(listener, partial(_serve_front_end, engine, several))
    within_s = _Readers(received, engine.receive, partial(_is_readable, connection)).run()
    engine.stop(within_s)
    if several is not None:
        several.close()
    writer.close()
    return 0


def _serve_front_end(engine: LoadedModels, several: front_ends.FrontEnds, connection: socket.socket) -> None:
    """Serve one of several front ends until it closes its connection."""
    with connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        received = _receive(connection, frames.Decoder())
        batch = next(received, None)
        if batch is None or not isinstance(batch[0], messages.FrontEndHello):
            return
        number, first = batch[0].number, batch[1:]

        def take(batch: Sequence[messages.Message], *, may_run: bool = False) -> Callable[[], None] | None:
            return engine.receive(several.take(number, batch), may_run=may_run)

        writer = _FrameWriter(connection)
        several.add(number, writer, engine.info)
        try:
            take(first)
            _Readers(received, take, partial(_is_readable, connection)).run()
        except Exception:  # concerns this front end only, which is replaced
            log.exception("reading from front end %d failed", number)
        several.remove(number)
        engine.end_front_end(number)
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        writer.close()


class Take(Protocol):
    """The type of `LoadedModels.receive`."""

    def __call__(
        self, batch: Sequence[messages.Message], *, may_run: bool = False
    ) -> Callable[[], None] | None: ...


class _Readers:
    """Two threads that read in turn. One may make the run of a short request itself, which spares the request
    a hand-over to the engine's thread.

    The other thread reads on during that run: at once if something came during the last such run, and
    otherwise after 50 ms at most, as waking it for nothing would delay the run.

    Args:
        pending: whether there is something to read.
    """

    def __init__(
        self,
        received: Iterator[list[messages.Message]],
        take: Take,
        pending: Callable[[], bool] = lambda: True,
    ) -> None:
        self._received, self._take, self._pending = received, take, pending
        self._reading = threading.Lock()
        self._called = threading.Event()  # the other thread is asked to read on
        self._standing_by: set[int] = set()  # threads that wait for `_reading`
        self._batches = 0  # read so far
        self._read_on = True
        self._ended = threading.Event()
        self._within_s = 0.0
        self._error: BaseException | None = None

    def run(self) -> float:
        """Read until `StopEngine` or the end of the connection. Returns the seconds the stop may take."""
        for number in range(2):
            threading.Thread(target=self._work, name=f"reader-{number}", daemon=True).start()
        self._ended.wait()
        if self._error is not None:
            raise self._error
        return self._within_s

    def _work(self) -> None:
        try:
            while self._stand_by():
                while (run := self._next_run()) is not None:
                    if not self._make(run):
                        break
        except BaseException as error:
            self._error = error
            self._ended.set()

    def _stand_by(self) -> bool:
        """Wait for the turn to read. False: there is nothing more to read."""
        thread = threading.get_ident()
        self._standing_by.add(thread)
        while not self._ended.is_set():
            if self._reading.acquire(blocking=False):
                self._standing_by.discard(thread)
                return True
            self._called.wait(_STAND_BY_S)
            self._called.clear()
        return False

    def _next_run(self) -> Callable[[], None] | None:
        """Read until this thread has a run to make. None: there is nothing more to read."""
        while (batch := next(self._received, None)) is not None:
            self._batches += 1
            before, stop = _until_stop(batch)
            if stop is not None:
                self._take(before)
                self._within_s = stop.within_s
                break
            if (run := self._take(batch, may_run=bool(self._standing_by))) is not None:
                return run
        self._ended.set()
        return None

    def _make(self, run: Callable[[], None]) -> bool:
        """Make a run, during which the other thread may read. Returns whether it is still this one's turn."""
        batches = self._batches
        self._reading.release()
        if self._read_on:
            self._called.set()
        run()
        if self._reading.acquire(blocking=False):
            self._read_on = self._pending()
            return True
        self._read_on = self._batches != batches
        return False


def _until_stop(batch: list[Any]) -> tuple[list[Any], messages.StopEngine | None]:
    """The messages before a `StopEngine`, and that. What comes after it concerns nobody."""
    for at, message in enumerate(batch):
        if isinstance(message, messages.StopEngine):
            return batch[:at], message
    return batch, None


def _receive(connection: socket.socket, decoder: frames.Decoder) -> Iterator[list[messages.Message]]:
    """Yield the messages of each frame. The first one is the configuration."""
    with suppress(OSError):
        while count := connection.recv_into(decoder.place()):
            yield from decoder.received(count)


def _is_readable(connection: socket.socket) -> bool:
    return bool(select.select([connection], [], [], 0)[0])


def main() -> int:
    """`python -m lockstep_server.ipc.engine_main FD LEVEL FORM [LISTENER]`: LEVEL and FORM as in
    `logs.configure`; LISTENER is the descriptor of a socket to which several front ends connect."""
    descriptor, level, form = int(sys.argv[1]), *sys.argv[2:4]
    listener = socket.socket(fileno=int(sys.argv[4])) if len(sys.argv) > 4 else None
    logs.configure(level, form)
    # The front end handles the signals and stops this process with `StopEngine`.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    with socket.socket(fileno=descriptor) as connection:
        connection.setblocking(True)
        try:
            code = serve(connection, listener)
        except BaseException:  # the front end starts another process
            log.exception("the engine process failed")
            code = 1
    sys.stderr.flush()
    os._exit(code)  # a run that hangs must not keep the process alive


if __name__ == "__main__":
    main()
