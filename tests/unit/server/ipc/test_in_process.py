"""The transport within one process: messages go over in order, news come back on the event loop in order."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from lockstep_server import messages
from lockstep_server.errors import LoadError
from lockstep_server.ipc.in_process import InProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Puppet:
    """A host that keeps what comes and reports what it is told to."""

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


async def test_it_starts_the_host_that_it_makes_and_tells_its_device_after_the_first_news() -> None:
    made, seen = [], []

    def make() -> Puppet:
        made.append(Puppet())
        return made[0]

    transport = InProcess(make)
    assert made == []
    assert await transport.start(lambda update: seen.append(update.model)) == Puppet.info
    assert seen == ["first"]
    await transport.stop(0.0)
    assert len(made) == 1


async def test_a_host_that_cannot_be_made_is_told() -> None:
    def make() -> messages.Engine:
        raise LoadError("no such folder")

    transport = InProcess(make)
    with pytest.raises(LoadError, match="no such folder"):
        await transport.start(lambda _: None)
    await transport.stop(0.0)


async def test_messages_arrive_whole_and_in_order() -> None:
    host = Puppet()
    transport = InProcess(lambda: host)
    await transport.start(lambda _: None)
    sent: list[Any] = [messages.Cancel(1), messages.Load("m"), messages.Credit(2, 3)]
    for message in sent:
        transport.send(message)
    await transport.stop(0.0)
    assert [message for batch in host.batches for message in batch] == sent


async def test_messages_of_one_turn_of_the_loop_cross_together() -> None:
    host = Puppet()
    transport = InProcess(lambda: host)
    await transport.start(lambda _: None)
    for key in range(3):
        transport.send(messages.Cancel(key))
    assert host.batches == []
    await asyncio.sleep(0)
    transport.send(messages.Cancel(3))
    await asyncio.sleep(0)
    assert [[message.key for message in batch] for batch in host.batches] == [[0, 1, 2], [3]]
    await transport.stop(0.0)


async def test_news_of_other_threads_come_on_the_event_loop_in_order() -> None:
    host, seen, threads, done = Puppet(), [], set(), asyncio.Event()

    def deliver(update: Any) -> None:
        seen.append(update.model)
        threads.add(threading.get_ident())
        if len(seen) == 101:
            done.set()

    await InProcess(lambda: host).start(deliver)
    worker = threading.Thread(
        target=lambda: [host.report(messages.LoadDone(str(i), "load")) for i in range(100)]
    )
    worker.start()
    await asyncio.wait_for(done.wait(), 30)
    worker.join()
    assert seen == ["first", *(str(i) for i in range(100))]
    assert threads == {threading.get_ident()}


async def test_stopping_does_not_block_the_loop_and_delivers_the_last_news() -> None:
    host, seen = Puppet(), []
    transport = InProcess(lambda: host)
    await transport.start(lambda update: seen.append(update.model))
    await transport.stop(0.0)
    assert host.stopped[0] != threading.get_ident()
    assert seen == ["first", "last"]


def test_news_after_the_loop_has_closed_are_dropped() -> None:
    host = Puppet()

    async def begin() -> None:
        await InProcess(lambda: host).start(lambda _: None)

    asyncio.run(begin())
    host.report(messages.LoadDone("late", "load"))
