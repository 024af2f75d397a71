"""The transport: messages go over in order, news come back on the event loop in order."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from lockstep_server import port
from lockstep_server.transport import InProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Puppet:
    """A host that keeps what comes and reports what it is told to."""

    def __init__(self) -> None:
        self.messages: list[port.Message] = []
        self.report: Callable[[port.News], None] = lambda _: None
        self.stopped: list[int] = []

    def start(self, report: Callable[[port.News], None]) -> None:
        self.report = report

    def receive(self, messages: Sequence[port.Message]) -> None:
        self.messages.extend(messages)

    def stop(self, within_s: float) -> None:
        self.stopped.append(threading.get_ident())
        self.report(port.LoadDone("last", "load"))


async def test_messages_arrive_whole_and_in_order() -> None:
    host = Puppet()
    transport = InProcess(host)
    transport.start(lambda _: None)
    sent: list[Any] = [port.Cancel(1), port.Load("m"), port.Credit(2, 3)]
    for message in sent:
        transport.send(message)
    await transport.stop(0.0)
    assert host.messages == sent


async def test_news_of_other_threads_come_on_the_event_loop_in_order() -> None:
    host, seen, threads, done = Puppet(), [], set(), asyncio.Event()

    def deliver(news: Any) -> None:
        seen.append(news.model)
        threads.add(threading.get_ident())
        if len(seen) == 100:
            done.set()

    InProcess(host).start(deliver)
    worker = threading.Thread(target=lambda: [host.report(port.LoadDone(str(i), "load")) for i in range(100)])
    worker.start()
    await asyncio.wait_for(done.wait(), 30)
    worker.join()
    assert seen == [str(i) for i in range(100)]
    assert threads == {threading.get_ident()}


async def test_stopping_does_not_block_the_loop_and_delivers_the_last_news() -> None:
    host, seen = Puppet(), []
    transport = InProcess(host)
    transport.start(lambda news: seen.append(news.model))
    await transport.stop(0.0)
    assert host.stopped[0] != threading.get_ident()
    assert seen == ["last"]


def test_news_after_the_loop_has_closed_are_dropped() -> None:
    host = Puppet()

    async def begin() -> None:
        InProcess(host).start(lambda _: None)

    asyncio.run(begin())
    host.report(port.LoadDone("late", "load"))
