"""One end of a socket to another process of the server, on the event loop.

messages -> frames -> socket, in order, as fast as the other end reads; and its frames back, one by one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from socket import SO_SNDBUF, SOL_SOCKET
from typing import TYPE_CHECKING, Any

from .. import messages
from . import frames
from .child_process import SOCKET_BYTES

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from ..errors import ServingError

log = logging.getLogger(__name__)

_TURN_BYTES = 1 << 20
"""Bytes written in one turn of the event loop."""


class Connection:
    """Sends and receives messages until `close`, or until the other end closes. Event loop only.

    Args:
        name: what the log calls the other end.
        receive: called with each message. What it raises concerns that message only.
        closed: called once if the other end has closed the socket.
        broken: called if the other end sends what cannot be read. Nothing after that can be read either.
        unsendable: called with a message that cannot be encoded.

    `heard`, `drained`: the other end has written, or read, something since they were last reset.
    """

    def __init__(
        self,
        connection: socket.socket,
        name: str,
        receive: Callable[[Any], None],
        closed: Callable[[], None],
        *,
        broken: Callable[[], None] | None = None,
        unsendable: Callable[[Any], None] = lambda _: None,
    ) -> None:
        connection.setsockopt(SOL_SOCKET, SO_SNDBUF, SOCKET_BYTES)
        connection.setblocking(False)
        self._socket, self._name = connection, name
        self._receive, self._closed, self._broken = receive, closed, broken or closed
        self._unsendable, self.heard, self.drained = unsendable, False, False
        self._encoder, self._decoder = frames.Encoder(), frames.Decoder()
        self._unsent: deque[memoryview] = deque()
        self._open, self._waits = True, False  # for the other end to read
        asyncio.get_running_loop().add_reader(connection.fileno(), self._read)

    def close(self) -> None:
        """Forget what is not sent, and read nothing more. `closed` is not called."""
        if not self._open:
            return
        self._open = False
        loop, descriptor = asyncio.get_running_loop(), self._socket.fileno()
        loop.remove_reader(descriptor)
        loop.remove_writer(descriptor)
        self._unsent.clear()
        self._socket.close()

    # --- sending ------------------------------------------------------------------------------------

    def write(self, batch: Sequence[Any]) -> None:
        """Send messages as one frame. Never blocks."""
        if not self._open:
            return
        try:
            parts = self._encoder.encode(batch)
        except Exception:  # one message cannot be encoded: the others are sent
            if len(batch) > 1:
                for message in batch:
                    self.write([message])
                return
            log.exception("a %s cannot be sent to %s", type(batch[0]).__name__, self._name)
            self._unsendable(batch[0])
            return
        self._unsent.extend(memoryview(part).cast("B") for part in parts)
        if not self._waits:
            self._write_unsent()

    def _write_unsent(self) -> None:
        """Write as much as the socket accepts now, but no more than `_TURN_BYTES`, and the rest once it is
        writable again: a process that reads as fast as this writes must not hold up the event loop."""
        turn, unsent = 0, self._unsent
        try:
            while unsent and turn < _TURN_BYTES:
                part = unsent[0]
                sent = self._socket.send(part if len(part) <= _TURN_BYTES else part[:_TURN_BYTES])
                turn += sent
                if sent < len(part):
                    unsent[0] = part[sent:]
                else:
                    unsent.popleft()
        except BlockingIOError:
            pass
        except OSError:  # the process died: `_read` handles it
            unsent.clear()
        if self._waits != bool(unsent):
            self._waits = bool(unsent)
            loop, descriptor = asyncio.get_running_loop(), self._socket.fileno()
            if self._waits:
                loop.add_writer(descriptor, self._write_more)
            else:
                loop.remove_writer(descriptor)

    def _write_more(self) -> None:
        self.drained = True
        self._write_unsent()

    # --- receiving ----------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            count = self._socket.recv_into(self._decoder.place())
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            self.close()
            self._closed()
            return
        self.heard = True
        try:
            for batch in self._decoder.received(count):
                for message in batch:
                    try:
                        self._receive(message)
                    except Exception:  # concerns this message only
                        log.exception("processing a %s of %s failed", type(message).__name__, self._name)
        except Exception:  # the stream of frames is broken: nothing after this can be read
            log.exception("reading from %s failed", self._name)
            self._broken()


def rejection(message: messages.Message, error: ServingError) -> messages.EngineUpdate | None:
    """The answer of a message that cannot be sent to the engine; None: it has no answer."""
    match message:
        case messages.Infer() | messages.Generate() | messages.Step():
            ended = messages.Event(key=message.key, error=error)
            return messages.Events(model=message.model, version=message.version, events=[ended])
        case messages.Load() | messages.Unload():
            verb = "load" if isinstance(message, messages.Load) else "unload"
            return messages.LoadDone(message.model, verb, error.message, message.key, temporary=True)
        case messages.GetRuns():
            return messages.RunRecords(message.key, [], reason=error.message)
        case messages.FindSequence():
            return messages.SequenceFound(message.key, 0)
        case messages.GetSequence() | messages.PutSequence():
            return messages.SequenceAnswer(key=message.key, model=message.model, error=error)
        case messages.ListSequences():
            return messages.SequenceList(message.key, [])
    return None
