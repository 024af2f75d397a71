"""Several front ends before one engine, on the engine's side: which front end gets which update.

Each front end connects to the engine's listener and sends `FrontEndHello`. It gets the models as they are,
and then what changes. The results of a run go to the front ends that asked, found by the keys; what concerns
a model goes to all. The supervisor, which started the engine process, gets what concerns the models too, and
all that is counted once.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from msgspec.structs import replace

from .. import messages
from ..messages import front_end_of

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence


_OWN = messages.LoadSeen | messages.SetFlushInterval | messages.SequenceMoved
"""What front ends send that is not for the engine, or not as it is."""


class Writer(Protocol):
    """Writes messages to one front end, in order. Safe to call from any thread."""

    def put(self, message: Any) -> None: ...

    def close(self) -> None: ...


class FrontEnds:
    """Passes updates on. All methods may be called from any thread.

    Args:
        supervisor: writes to the supervisor.
    """

    def __init__(self, supervisor: Writer) -> None:
        self._supervisor = supervisor
        self._lock = threading.Lock()
        self._writers: dict[int, Writer] = {}
        self._models: dict[tuple[str, int], dict[type, messages.EngineUpdate]] = {}
        self._unseen: dict[int, tuple[messages.LoadDone, set[int]]] = {}  # by key, with who has not seen it
        self._flush_s: dict[int, float] = {}

    # --- front ends that come and go ------------------------------------------------------------------

    def add(self, number: int, writer: Writer, info: messages.EngineInfo) -> None:
        """Describe the models to a front end, and pass updates on to it from now on."""
        with self._lock:
            for updates in self._models.values():
                for update in updates.values():
                    writer.put(update)
            writer.put(messages.EngineStarted(info))
            self._writers[number] = writer

    def remove(self, number: int) -> None:
        """Forget a front end that has ended. No load waits for it any more."""
        with self._lock:
            self._writers.pop(number, None)
            self._flush_s.pop(number, None)
            for key in list(self._unseen):
                self._seen(key, number)

    def close(self) -> None:
        """Write all that was reported, and close the connections."""
        with self._lock:
            writers = list(self._writers.values())
            self._writers.clear()
        for writer in writers:
            writer.close()

    # --- updates --------------------------------------------------------------------------------------

    def report(self, update: messages.EngineUpdate) -> None:
        """Pass an update of the engine on."""
        if isinstance(update, messages.Events):
            self._report_events(update)
            return
        with self._lock:
            match update:
                case messages.ModelUpdate():
                    self._models[update.model, update.version] = {messages.ModelUpdate: update}
                case messages.Costs() | messages.BatchingOff() | messages.ModelPaused():
                    of_model = self._models.get((update.model, update.version), {})
                    of_model[type(update)] = update
                    if isinstance(update, messages.ModelPaused) and not update.reason:
                        del of_model[messages.ModelPaused]
                case messages.LoadStep():
                    pass  # of interest while it lasts
                case messages.LoadDone():
                    self._report_load(update)
                    return
                case (
                    messages.SequenceFound()
                    | messages.RunRecords()
                    | messages.SequenceAnswer()
                    | messages.SequenceList()
                ):
                    if (writer := self._writers.get(front_end_of(update.key))) is not None:
                        writer.put(update)
                    return
                case _:  # counted once, or an answer to the supervisor
                    self._supervisor.put(update)
                    return
            self._supervisor.put(update)
            for writer in self._writers.values():
                writer.put(update)

    def _report_events(self, update: messages.Events) -> None:
        writers = self._writers
        for number, part in split(update).items():
            if (writer := writers.get(number)) is not None:
                writer.put(part)
            elif part.runs and (other := next(iter(list(writers.values())), None)) is not None:
                # Runs are counted once, by whichever front end.
                other.put(replace(part, events=(), chunks=()))

    def _report_load(self, done: messages.LoadDone) -> None:
        """A load ends for its caller when all front ends know of it: its next call may reach any of them."""
        asked = front_end_of(done.key)
        others = self._writers.keys() - {asked}
        self._supervisor.put(done)
        for number in others:
            self._writers[number].put(done)
        if asked in self._writers:
            self._unseen[done.key] = done, set(others)
            self._seen(done.key, asked)

    def _seen(self, key: int, number: int) -> None:
        done, missing = self._unseen[key]
        missing.discard(number)
        if not missing:
            del self._unseen[key]
            if (writer := self._writers.get(front_end_of(key))) is not None:
                writer.put(done)

    # --- messages -------------------------------------------------------------------------------------

    def take(self, number: int, batch: Sequence[messages.Message]) -> Sequence[messages.Message]:
        """The messages of a front end that the engine is to get."""
        if not any(isinstance(one, _OWN) for one in batch):
            return batch
        rest: list[messages.Message] = []
        with self._lock:
            for message in batch:
                if isinstance(message, messages.LoadSeen):
                    if message.key in self._unseen:
                        self._seen(message.key, number)
                elif isinstance(message, messages.SetFlushInterval):  # as the busiest of them needs it
                    self._flush_s[number] = message.flush_s
                    rest.append(messages.SetFlushInterval(max(self._flush_s.values())))
                elif isinstance(message, messages.SequenceMoved):
                    for other in self._writers.keys() - {number}:
                        self._writers[other].put(message)
                else:
                    rest.append(message)
        return rest


def split(update: messages.Events) -> dict[int, messages.Events]:
    """The part of each front end, by its number. The first one has the runs and the counts of sequences."""
    keys = [*(event.key for event in update.events), *(chunk.key for chunk in update.chunks)]
    if len(found := list(dict.fromkeys(map(front_end_of, keys)))) <= 1:
        return {(found or [0])[0]: update}
    parts = {}
    for at, number in enumerate(found):
        part = replace(
            update,
            events=[event for event in update.events if front_end_of(event.key) == number],
            chunks=[chunk for chunk in update.chunks if front_end_of(chunk.key) == number],
        )
        parts[number] = replace(part, runs=(), sequences=None, state_bytes=0) if at else part
    return parts


def accept(listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
    """Serve each connection on a thread of its own, until the process ends."""

    def run() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,), name="front-end", daemon=True).start()

    threading.Thread(target=run, name="front-ends", daemon=True).start()
