"""The transport to the engine process keeps order, never blocks, and survives the death of the process."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from unit.server import sample_models

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
    monkeypatch.setattr(engine_process, "_STOP_GRACE_S", 0.2)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


class FrontEnd:
    """A transport to the fake engine, the updates it delivered, and the losses it reported."""

    def __init__(self, models: str = "models") -> None:
        self.updates: list[Any] = []
        self.losses: list[str] = []
        self._changed = asyncio.Event()
        self.transport = EngineProcess(messages.EngineConfig(models=models), self._lost)

    def _lost(self, reason: str) -> None:
        self.losses.append(reason)
        self._changed.set()

    def _deliver(self, update: messages.EngineUpdate) -> None:
        self.updates.append(update)
        self._changed.set()

    async def start(self) -> messages.EngineInfo:
        return await self.transport.start(self._deliver)

    async def wait_until(self, met: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not met():
                self._changed.clear()
                await self._changed.wait()

    def models(self) -> list[str]:
        return [update.model for update in self.updates]


async def test_start_returns_the_device_after_the_first_updates_are_delivered() -> None:
    front = FrontEnd()
    assert (await front.start()).device == "puppet"
    assert front.models() == ["first"]
    await front.transport.stop(5.0)


async def test_a_process_that_cannot_start_reports_why_and_is_not_restarted() -> None:
    front = FrontEnd("nowhere")
    with pytest.raises(LoadError, match="no such folder"):
        await front.start()
    await front.transport.stop(0.0)
    assert front.losses == []


async def test_a_process_that_dies_during_startup_is_a_load_error(tmp_path: Path) -> None:
    (tmp_path / "crashes").write_text("x.")
    front = FrontEnd(str(tmp_path))
    with pytest.raises(LoadError, match="the engine process died during startup"):
        await front.start()
    await front.transport.stop(0.0)
    assert front.losses == []


async def test_messages_arrive_complete_and_in_order() -> None:
    front = FrontEnd()
    await front.start()
    sent = [messages.Cancel(key) for key in range(200)]
    for i, message in enumerate(sent):
        front.transport.send(message)
        if i % 7 == 0:
            await asyncio.sleep(0)
    await front.wait_until(lambda: len(front.updates) == 201)
    assert front.models()[1:] == [str(message) for message in sent]
    await front.transport.stop(5.0)


async def test_messages_larger_than_the_socket_buffers_are_sent_without_blocking() -> None:
    front = FrontEnd()
    await front.start()
    front.transport.send(messages.Load("doze"))  # reads nothing for 0.3 s
    arrays = [np.full(1 << 20, key, np.float64) for key in range(3)]
    for key, array in enumerate(arrays):
        front.transport.send(sample_models.infer(key, inputs={"x": array}))
    await front.wait_until(lambda: len(front.updates) == 4)
    for key, events in enumerate(front.updates[1:]):
        (event,) = events.events
        assert event.key == key
        np.testing.assert_array_equal(event.outputs["x"], arrays[key])
    await front.transport.stop(5.0)


@pytest.mark.parametrize("how", ["exit code 3", "signal 9"])
async def test_a_process_that_dies_is_reported_once_and_restarted(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_process, "_CRASH_LOOP_S", 0.0)  # no crash loop: restart without a pause
    front = FrontEnd()
    await front.start()
    first = front.transport.pid
    if how == "signal 9":
        os.kill(first, signal.SIGKILL)
    else:
        front.transport.send(messages.Load("die"))
    await front.wait_until(
        lambda: front.models() == ["first", "first"]
    )  # the new process has reported its models
    assert len(front.losses) == 1
    assert how in front.losses[0]
    assert front.transport.pid not in (0, first)
    front.transport.send(messages.Cancel(9))
    await front.wait_until(lambda: len(front.updates) == 3)
    await front.transport.stop(5.0)
    assert len(front.losses) == 1


async def test_a_process_that_dies_during_its_restart_is_restarted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crashes").write_text(".x.")
    monkeypatch.setattr(engine_process, "_CRASH_LOOP_S", 0.0)
    front = FrontEnd(str(tmp_path))
    await front.start()
    front.transport.send(messages.Load("die"))
    await front.wait_until(lambda: front.models() == ["first", "first"])
    await front.transport.stop(5.0)


async def test_messages_sent_while_no_process_runs_are_answered_unavailable() -> None:
    front = FrontEnd()
    await front.start()
    front.transport.send(messages.Load("die"))
    await front.wait_until(lambda: bool(front.losses))
    for message in (
        sample_models.infer(1),
        messages.Generate(key=2, model="m", version=1, prompt=(3,)),
        messages.Load("m"),
        messages.Unload("m"),
    ):
        front.transport.send(message)
    await front.wait_until(lambda: len(front.updates) == 5)
    one, other, load, unload = front.updates[1:]
    for key, events in ((1, one), (2, other)):
        (event,) = events.events
        assert (event.key, event.error.code) == (key, ErrorCode.UNAVAILABLE)
    assert [(done.verb, bool(done.reason)) for done in (load, unload)] == [("load", True), ("unload", True)]
    await front.transport.stop(5.0)


async def test_stop_delivers_the_messages_sent_before_and_the_last_updates() -> None:
    front = FrontEnd()
    await front.start()
    front.transport.send(messages.Cancel(1))
    await front.transport.stop(5.0)
    assert front.models() == ["first", str(messages.Cancel(1)), "last"]
    assert front.losses == []


async def test_a_process_that_does_not_stop_is_killed() -> None:
    front = FrontEnd()
    await front.start()
    pid = front.transport.pid
    front.transport.send(messages.Load("deaf"))
    await front.transport.stop(0.0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_stop_during_a_restart_starts_no_process() -> None:
    front = FrontEnd()
    await front.start()
    front.transport.send(messages.Load("die"))
    await front.wait_until(lambda: bool(front.losses))
    await front.transport.stop(5.0)
    await asyncio.sleep(0)
    assert front.models() == ["first"]


async def test_stop_before_start_does_nothing() -> None:
    await FrontEnd().transport.stop(0.0)
