"""The transport to the engine process keeps order, never blocks, and survives the death of the process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from unit.server import sample_models

from lockstep_server import messages
from lockstep_server.errors import ErrorCode, LoadError
from lockstep_server.ipc import engine_process, heartbeat
from lockstep_server.ipc.engine_process import EngineProcess

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[4]


@pytest.fixture(autouse=True)
def puppet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_process, "ENGINE", "tests.unit.server.ipc.puppet_engine")
    monkeypatch.setattr(engine_process, "_STOP_GRACE_S", 0.2)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


class FrontEnd:
    """A transport to the fake engine, the updates it delivered, and the losses it reported."""

    def __init__(self, models: str = "models") -> None:
        self.updates: list[Any] = []
        self.losses: list[str] = []
        self.hangs = 0
        self.restarts: list[bool] = []
        self.fails_on = ""
        self._changed = asyncio.Event()
        self.transport = EngineProcess(
            messages.EngineConfig(models=models), self._lost, self._restarted, self._hung
        )

    def _restarted(self) -> None:
        self.restarts.append(self.transport.recovers)
        self._changed.set()

    def _hung(self) -> None:
        self.hangs += 1

    def _lost(self, reason: str) -> None:
        self.losses.append(reason)
        self._changed.set()

    def _deliver(self, update: messages.EngineUpdate) -> None:
        if self.fails_on and getattr(update, "model", "") == self.fails_on:
            raise RuntimeError(self.fails_on)
        self.updates.append(update)
        self._changed.set()

    async def start(self) -> messages.EngineInfo:
        return await self.transport.start(self._deliver)

    async def wait_until(self, met: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not met():
                self._changed.clear()
                await self._changed.wait()

    def names(self) -> list[str]:
        return [getattr(update, "model", "") for update in self.updates]

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
        front.transport.send(message, messages.SendPolicy.NOW)
    assert len(front.updates) == 1  # none is answered before its sender knows its key
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


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause before a restart, and a heartbeat every 0.1 s."""
    monkeypatch.setattr(engine_process, "_CRASH_LOOP_S", 0.0)
    monkeypatch.setattr(heartbeat, "_TICK_S", 0.1)


@pytest.mark.usefixtures("fast")
async def test_a_stopped_process_is_killed_and_replaced() -> None:
    front = FrontEnd()
    await front.start()
    first = front.transport.pid
    front.transport.send(messages.Load("stop"))
    await front.wait_until(lambda: front.models() == ["first", "first"])
    assert front.hangs == 1
    assert "did not answer" in front.losses[0]
    assert front.transport.pid != first
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    await front.transport.stop(5.0)


@pytest.mark.usefixtures("fast")
async def test_a_stream_of_bytes_that_cannot_be_read_restarts_the_process() -> None:
    front = FrontEnd()
    await front.start()
    front.transport.send(messages.Load("nonsense"))
    await front.wait_until(lambda: front.models() == ["first", "first"])
    assert len(front.losses) == 1
    await front.transport.stop(5.0)


@pytest.mark.usefixtures("fast")
async def test_a_model_that_is_stuck_is_not_loaded_again_until_it_is_asked_for() -> None:
    front = FrontEnd()
    await front.start()
    front.transport.send(messages.Load("stuck"))
    await front.wait_until(lambda: "bad is excluded" in front.names())
    front.transport.send(messages.Load("bad"))
    front.transport.send(messages.Load("die"))
    await front.wait_until(lambda: front.names().count("first") == 3)
    assert front.names().count("bad is excluded") == 1
    await front.transport.stop(5.0)


@pytest.mark.usefixtures("fast")
async def test_a_model_whose_loads_end_the_process_is_not_loaded_again() -> None:
    front = FrontEnd()
    await front.start()
    for starts in (2, 3):
        assert "bad is excluded" not in front.names()
        front.transport.send(messages.Load("die loading"))
        await front.wait_until(lambda starts=starts: front.names().count("first") == starts)  # type: ignore[misc]
    await front.wait_until(lambda: "bad is excluded" in front.names())
    await front.transport.stop(5.0)


@pytest.mark.usefixtures("fast")
async def test_a_process_that_the_system_refuses_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    front = FrontEnd()
    await front.start()
    start, recovers = subprocess.Popen, []

    def refuse(*_: Any, **__: Any) -> Any:
        recovers.append(front.transport.recovers)
        if len(recovers) > 2:
            monkeypatch.setattr(subprocess, "Popen", start)
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    front.transport.send(messages.Load("die"))
    await front.wait_until(lambda: front.models() == ["first", "first"])
    assert recovers == [True, False, False]
    await front.wait_until(lambda: front.transport.recovers)
    assert front.restarts == [False, False, False, True]
    assert len(front.losses) == 1
    await front.transport.stop(5.0)


async def test_a_message_that_cannot_be_encoded_fails_by_itself() -> None:
    front = FrontEnd()
    await front.start()
    bad = sample_models.infer(1, priority=2**70)
    for message in (messages.Cancel(1), bad, messages.Cancel(2)):
        front.transport.send(message)
    await front.wait_until(lambda: len(front.updates) == 4)
    (failed,) = (update for update in front.updates if isinstance(update, messages.Events))
    assert [(event.key, event.error.code) for event in failed.events] == [(1, ErrorCode.FAILED)]
    await front.transport.stop(5.0)


async def test_an_error_in_delivering_one_update_does_not_touch_the_next() -> None:
    front = FrontEnd()
    await front.start()
    front.fails_on = str(messages.Cancel(1))
    for key in (1, 2):
        front.transport.send(messages.Cancel(key))
    await front.wait_until(lambda: str(messages.Cancel(2)) in front.names())
    assert front.losses == []
    await front.transport.stop(5.0)
