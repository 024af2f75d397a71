"""The engine process: a host behind a socket. Started by `transport/engine_process.py` only.

It ends when it is told to, and when the socket closes: a front end that was killed leaves none behind.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from queue import SimpleQueue
from typing import Any

from .. import logs, messages
from ..errors import LoadError
from . import frames

log = logging.getLogger(__name__)

_FEW = 4
_SWITCH_INTERVAL_S = 0.0005
"""How long an engine whose run has ended may wait for a thread that encodes or decodes."""


class _Writer:
    """Frames out, in order: a small one by who has it, if nothing waits before it, any other by a
    thread, which encodes it while a session runs."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._writing = threading.Lock()
        self._waiting = 0
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
        self._thread.start()

    def put(self, message: Any) -> None:
        with self._writing:
            if self._waiting or not _small(message):
                self._waiting += 1
                self._queue.put(message)
            else:
                self._write([message])

    def close(self) -> None:
        """Once all that was put before has been written."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (message := self._queue.get()) is not None:
            batch = [message]
            while not self._queue.empty() and message is not None:
                message = self._queue.get()
                batch.append(message)
            if message is None:
                batch.pop()
            self._write(batch)
            with self._writing:
                self._waiting -= len(batch)
            if message is None:
                return

    def _write(self, batch: list[Any]) -> None:
        try:
            for piece in frames.encode(batch):
                self._end.sendall(piece)
        except OSError:
            log.debug("the front end has gone")


def _small(message: Any) -> bool:
    """Sooner encoded than handed over."""
    return isinstance(message, messages.Events) and len(message.events) + len(message.chunks) <= _FEW


def serve(end: socket.socket) -> int:
    """Host models for the other end of the socket until it says stop, or closes."""
    decoder = frames.Decoder()
    inbox = _incoming(end, decoder)
    config: messages.EngineConfig = next(inbox)
    writer = _Writer(end)
    from ..engine.models import LoadedModels

    try:
        host = LoadedModels(config, reads_here=True)
        host.start(writer.put)
    except LoadError as error:
        writer.put(frames.EngineFailed(str(error)))
        writer.close()
        return 1
    writer.put(frames.EngineStarted(host.info))
    within_s = 0.0
    batch: list[messages.Message] = []
    for message in inbox:
        if message is _END_OF_FRAME:
            host.receive(batch)
            batch = []
        elif isinstance(message, frames.StopEngine):
            within_s = message.within_s
            break
        else:
            batch.append(message)
    host.stop(within_s)
    writer.close()
    return 0


_END_OF_FRAME = object()


def _incoming(end: socket.socket, decoder: frames.Decoder) -> Any:
    """Every message; `_END_OF_FRAME` after the last of each frame but the first, the configuration."""
    first, buffer = True, memoryview(bytearray(frames.READ_BYTES))
    while data := _received(end, buffer):
        for batch in decoder.feed(data):
            yield from batch
            if not first:
                yield _END_OF_FRAME
            first = False


def _received(end: socket.socket, buffer: memoryview) -> bytes:
    try:
        return bytes(buffer[: end.recv_into(buffer)])
    except OSError:
        return b""


def main() -> int:
    """`python -m lockstep_server.ipc.engine_main FD LEVEL FORM`: as `logs.configure` has them."""
    number, level, form = int(sys.argv[1]), *sys.argv[2:4]
    logs.configure(level, form)
    # Signals are for the front end, which tells this process when it may go.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    with socket.socket(fileno=number) as end:
        end.setblocking(True)
        code = serve(end)
    sys.stderr.flush()
    os._exit(code)  # a run that does not end must not keep the process


if __name__ == "__main__":
    main()
