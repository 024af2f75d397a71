"""The two readers of the engine process, of which one makes a lone request's run, and its writer."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from patience import PATIENCE_S

from lockstep_server import messages
from lockstep_server.ipc.engine_main import _is_small, _Readers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


class Connection:
    """Frames that a test sends, and what the engine takes of them."""

    def __init__(self, runs: dict[int, Callable[[], None]], *, pending: bool = True) -> None:
        self._frames: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._runs = runs
        self.taken: queue.SimpleQueue[tuple[int, bool]] = queue.SimpleQueue()
        self.within_s: list[float] = []
        self.errors: list[BaseException] = []
        self._readers = _Readers(self._received(), self._take, lambda: pending)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def send(self, *sent: Any) -> None:
        self._frames.put(list(sent))

    def close(self) -> None:
        self._frames.put(None)
        self.join()

    def join(self) -> None:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def _received(self) -> Iterator[list[Any]]:
        while (frame := self._frames.get()) is not None:
            if isinstance(frame[0], Exception):
                raise frame[0]
            yield frame

    def _take(self, batch: Sequence[Any], *, may_run: bool = False) -> Callable[[], None] | None:
        for message in batch:
            self.taken.put((message.key, may_run))
        return self._runs.get(batch[0].key) if batch and may_run else None

    def _run(self) -> None:
        try:
            self.within_s.append(self._readers.run())
        except BaseException as error:
            self.errors.append(error)


@pytest.mark.parametrize("pending", [True, False])
def test_one_reads_on_while_the_other_runs(pending: bool) -> None:
    """Also if nothing came during the last run, after which nobody is woken for the next one."""
    running, go_on = threading.Event(), threading.Event()

    def run() -> None:
        if not lone.is_set():
            lone.set()
            return
        running.set()
        go_on.wait(PATIENCE_S)

    lone = threading.Event()
    connection = Connection(dict.fromkeys(range(1000), run), pending=pending)
    key = 0
    while not running.is_set():  # the first frames may come before the second thread waits
        connection.send(messages.Cancel(key))
        connection.taken.get(timeout=PATIENCE_S)
        key += 1
    connection.send(messages.Cancel(1001))
    assert connection.taken.get(timeout=PATIENCE_S) == (1001, False)  # nobody would read meanwhile
    go_on.set()
    connection.close()
    assert connection.within_s == [0.0]


def test_the_messages_before_a_stop_are_taken_and_those_after_it_are_not() -> None:
    connection = Connection({})
    connection.send(messages.Cancel(1), messages.StopEngine(within_s=3.0), messages.Cancel(2))
    connection.join()
    assert connection.taken.get(timeout=PATIENCE_S)[0] == 1
    assert connection.taken.empty()
    assert connection.within_s == [3.0]


def test_a_frame_that_cannot_be_read_ends_the_engine() -> None:
    connection = Connection({})
    connection.send(ValueError("frame version"))
    connection.join()
    with pytest.raises(ValueError, match="frame version"):
        raise connection.errors[0]


def answers(count: int, size: int, *, of_steps: bool = False) -> messages.Events:
    outputs = {"y": np.zeros(size, np.float32)}
    return messages.Events(
        model="m",
        version=1,
        events=[messages.Event(key=key, outputs=outputs) for key in range(count)],
        sequences=messages.SequenceCounts(count, 0, 0) if of_steps else None,
    )


@pytest.mark.parametrize(
    ("update", "small"),
    [
        (answers(64, 2), True),
        (answers(64, 1000), False),
        (answers(4, 2, of_steps=True), True),
        (answers(64, 2, of_steps=True), False),  # the next step would wait
        (messages.Costs("m", 1, {}), False),
    ],
)
def test_a_reporting_thread_writes_what_costs_less_than_waking_the_writer(update: Any, small: bool) -> None:
    assert _is_small(update) is small
