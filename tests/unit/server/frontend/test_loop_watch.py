"""Long work leaves the event loop to others, and a late event loop is told from a late machine."""

from __future__ import annotations

import asyncio
import threading

from patience import wait_until

from lockstep_server.frontend import loop_watch
from lockstep_server.frontend.loop_watch import off_loop


async def test_long_work_is_done_on_a_thread_and_short_work_at_once() -> None:
    here = threading.get_ident()
    assert await off_loop(10, threading.get_ident) == here
    assert await off_loop(1_000_000, threading.get_ident) != here


async def test_what_the_event_loop_has_called_is_named_without_the_framework() -> None:
    watch = loop_watch.LoopWatch(lambda _: None)
    watch.stop()

    def look() -> str:
        return watch._where()

    def inner() -> str:
        return look()

    found = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(lambda: found.set_result(inner()))
    called = [one.split(" (")[0] for one in (await found).split(" > ")]
    assert called == ["<lambda>", "inner", "look", "_where"]


async def test_an_event_loop_that_waits_has_called_nothing() -> None:
    watch = loop_watch.LoopWatch(lambda _: None)
    watch.stop()
    await asyncio.to_thread(wait_until, lambda: not watch._where(), "the event loop waits")
