"""The in-process transport delivers messages, and updates on the event loop, in order."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
from patience import PATIENCE_S

from lockstep_server import messages
from lockstep_server.errors import LoadError
from lockstep_server.ipc.in_process import InProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class FakeEngine:
    """Records the messages it receives. Tests report updates with `report`."""

    info = messages.EngineInfo("cpu", "0", 1)

    def __init__(self) -> None:
        self.batches: list[list[messages.Message]] = []
        self.report: Callable[[messages.EngineUpdate], None] = lambda _: None
        self.stopped: list[int] = []

    def start(self, report: Callable[[messages.EngineUpdate], None]) -> None:
        self.report = report
        report(messages.LoadDone("first", "load"))

    def receive(self, batch: Sequence[messages.Message]) -> None:
        self.batches.append(list(batch))

    def stop(self, within_s: float) -> None:
        self.stopped.append(threading.get_ident())
        self.report(messages.LoadDone("last", "load"))


async def test_start_creates_the_engine_and_returns_its_info_after_the_first_updates() -> None:
    created, seen = [], []

    def make_engine() -> FakeEngine:
        created.append(FakeEngine())
        return created[0]

    transport = InProcess(make_engine)
    assert created == []
    assert await transport.start(lambda update: seen.append(update.model)) == FakeEngine.info
    assert seen == ["first"]
    await transport.stop(0.0)
    assert len(created) == 1


async def test_an_engine_that_cannot_be_created_is_a_load_error() -> None:
    def make_engine() -> messages.Engine:
        raise LoadError("no such folder")

    transport = InProcess(make_engine)
    with pytest.raises(LoadError, match="no such folder"):
        await transport.start(lambda _: None)
    await transport.stop(0.0)


async def test_messages_arrive_complete_and_in_order() -> None:
    engine = FakeEngine()
    transport = InProcess(lambda: engine)
    await transport.start(lambda _: None)
    sent: list[Any] = [messages.Cancel(1), messages.Load("m"), messages.Credit(2, 3)]
    for message in sent:
        transport.send(message)
    await transport.stop(0.0)
    assert [message for batch in engine.batches for message in batch] == sent


async def test_messages_of_one_turn_of_the_loop_are_sent_together() -> None:
    engine = FakeEngine()
    transport = InProcess(lambda: engine)
    await transport.start(lambda _: None)
    for key in range(3):
        transport.send(messages.Cancel(key))
    assert engine.batches == []
    await asyncio.sleep(0)
    transport.send(messages.Cancel(3))
    await asyncio.sleep(0)
    assert [[message.key for message in batch] for batch in engine.batches] == [[0, 1, 2], [3]]
    await transport.stop(0.0)


async def test_updates_from_other_threads_arrive_on_the_event_loop_in_order() -> None:
    engine, seen, threads, done = FakeEngine(), [], set(), asyncio.Event()

    def deliver(update: Any) -> None:
        seen.append(update.model)
        threads.add(threading.get_ident())
        if len(seen) == 101:
            done.set()

    await InProcess(lambda: engine).start(deliver)
    worker = threading.Thread(
        target=lambda: [engine.report(messages.LoadDone(str(i), "load")) for i in range(100)]
    )
    worker.start()
    await asyncio.wait_for(done.wait(), PATIENCE_S)
    worker.join()
    assert seen == ["first", *(str(i) for i in range(100))]
    assert threads == {threading.get_ident()}


async def test_stop_does_not_block_the_loop_and_delivers_the_last_updates() -> None:
    engine, seen = FakeEngine(), []
    transport = InProcess(lambda: engine)
    await transport.start(lambda update: seen.append(update.model))
    await transport.stop(0.0)
    assert engine.stopped[0] != threading.get_ident()
    assert seen == ["first", "last"]


def test_updates_after_the_loop_has_closed_are_dropped() -> None:
    engine = FakeEngine()

    async def start() -> None:
        await InProcess(lambda: engine).start(lambda _: None)

    asyncio.run(start())
    engine.report(messages.LoadDone("late", "load"))
