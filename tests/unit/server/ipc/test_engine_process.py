"""The transport to a process: in order and whole, never blocking, and over the process's death."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from lockstep_server import messages
from lockstep_server.errors import ErrorCode, LoadError
from lockstep_server.ipc import engine_process
from lockstep_server.ipc.engine_process import EngineProcess

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[4]


@pytest.fixture(autouse=True)
def puppet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_process, "MODULE", "tests.unit.server.ipc.puppet_engine")
    monkeypatch.setattr(engine_process, "_LAST_WORDS_S", 0.2)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


class Front:
    """The event loop's side: what was delivered, and the losses."""

    def __init__(self, models: str = "models") -> None:
        self.update: list[Any] = []
        self.losses: list[str] = []
        self._changed = asyncio.Event()
        self.transport = EngineProcess(messages.EngineConfig(models), self._lost)

    def _lost(self, reason: str) -> None:
        self.losses.append(reason)
        self._changed.set()

    def _deliver(self, update: messages.EngineUpdate) -> None:
        self.update.append(update)
        self._changed.set()

    async def start(self) -> str:
        return await self.transport.start(self._deliver)

    async def until(self, met: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not met():
                self._changed.clear()
                await self._changed.wait()

    def models(self) -> list[str]:
        return [update.model for update in self.update]


async def test_it_tells_the_device_once_the_first_news_are_told() -> None:
    front = Front()
    assert (await front.start()).device == "puppet"
    assert front.models() == ["first"]
    await front.transport.stop(5.0)


async def test_a_process_that_cannot_start_says_why_and_is_not_started_again() -> None:
    front = Front("nowhere")
    with pytest.raises(LoadError, match="no such folder"):
        await front.start()
    await front.transport.stop(0.0)
    assert front.losses == []


async def test_a_process_that_dies_before_it_has_started_is_told(tmp_path: Path) -> None:
    (tmp_path / "crashes").write_text("x.")
    front = Front(str(tmp_path))
    with pytest.raises(LoadError, match="the engine process ended"):
        await front.start()
    await front.transport.stop(0.0)
    assert front.losses == []


async def test_messages_come_over_in_order_and_whole() -> None:
    front = Front()
    await front.start()
    sent = [messages.Cancel(key) for key in range(200)]
    for i, message in enumerate(sent):
        front.transport.send(message)
        if i % 7 == 0:
            await asyncio.sleep(0)
    await front.until(lambda: len(front.update) == 201)
    assert front.models()[1:] == [str(message) for message in sent]
    await front.transport.stop(5.0)


async def test_what_is_larger_than_the_sockets_buffers_comes_over_while_nothing_blocks() -> None:
    front = Front()
    await front.start()
    front.transport.send(messages.Load("doze"))  # it reads nothing for a while
    arrays = [np.full(1 << 20, key, np.float64) for key in range(3)]
    for key, array in enumerate(arrays):
        front.transport.send(messages.Submit(key, "m", 1, {"x": array}))
    await front.until(lambda: len(front.update) == 4)
    for key, events in enumerate(front.update[1:]):
        (event,) = events.events
        assert event.key == key
        np.testing.assert_array_equal(event.outputs["x"], arrays[key])
    await front.transport.stop(5.0)


@pytest.mark.parametrize("how", ["exit code 3", "signal 9"])
async def test_a_process_that_dies_is_told_once_and_started_again(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_process, "_SHORT_LIFE_S", 0.0)  # it has lived long enough for no pause
    front = Front()
    await front.start()
    first = front.transport.pid
    if how == "signal 9":
        os.kill(first, signal.SIGKILL)
    else:
        front.transport.send(messages.Load("die"))
    await front.until(lambda: front.models() == ["first", "first"])  # a new one has told its own
    assert len(front.losses) == 1
    assert how in front.losses[0]
    assert front.transport.pid not in (0, first)
    front.transport.send(messages.Cancel(9))
    await front.until(lambda: len(front.update) == 3)
    await front.transport.stop(5.0)
    assert len(front.losses) == 1


async def test_a_process_that_dies_while_it_starts_again_is_started_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crashes").write_text(".x.")
    monkeypatch.setattr(engine_process, "_SHORT_LIFE_S", 0.0)
    front = Front(str(tmp_path))
    await front.start()
    front.transport.send(messages.Load("die"))
    await front.until(lambda: front.models() == ["first", "first"])
    await front.transport.stop(5.0)


async def test_what_is_sent_while_no_process_is_there_is_refused_rather_than_lost() -> None:
    front = Front()
    await front.start()
    front.transport.send(messages.Load("die"))
    await front.until(lambda: bool(front.losses))
    for message in (
        messages.Submit(1, "m", 1, {}),
        messages.Tokenize(2, "m", 1, "text"),
        messages.Load("m"),
        messages.Unload("m"),
    ):
        front.transport.send(message)
    await front.until(lambda: len(front.update) == 5)
    one, other, load, unload = front.update[1:]
    for key, events in ((1, one), (2, other)):
        (event,) = events.events
        assert (event.key, event.error.code) == (key, ErrorCode.UNAVAILABLE)
    assert [(done.verb, bool(done.reason)) for done in (load, unload)] == [("load", True), ("unload", True)]
    await front.transport.stop(5.0)


async def test_stopping_delivers_what_was_sent_before_and_the_last_news() -> None:
    front = Front()
    await front.start()
    front.transport.send(messages.Cancel(1))
    await front.transport.stop(5.0)
    assert front.models() == ["first", str(messages.Cancel(1)), "last"]
    assert front.losses == []


async def test_a_process_that_does_not_end_is_killed() -> None:
    front = Front()
    await front.start()
    pid = front.transport.pid
    front.transport.send(messages.Load("deaf"))
    await front.transport.stop(0.0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_stopping_while_it_comes_back_starts_nothing() -> None:
    front = Front()
    await front.start()
    front.transport.send(messages.Load("die"))
    await front.until(lambda: bool(front.losses))
    await front.transport.stop(5.0)
    await asyncio.sleep(0)
    assert front.models() == ["first"]


async def test_stopping_before_the_start_is_nothing() -> None:
    await Front().transport.stop(0.0)
