"""The queue of loads: one at a time, past slow ones, and those of one model in order."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from typing import Any

import pytest
from patience import PATIENCE_S

from lockstep_server.engine.loading.load_queue import LoadQueue


class Loads:
    """A queue whose jobs wait until they are let go; `slow` is the number of slow ones."""

    def __init__(self) -> None:
        self.slow = 0
        self.queue = LoadQueue(lambda: self.slow)
        self.started: dict[str, threading.Event] = {}
        self.let_go: dict[str, threading.Event] = {}

    def put(self, model: str, job: str = "") -> Any:
        name = job or model
        started, let_go = self.started[name], self.let_go[name] = threading.Event(), threading.Event()

        def work() -> str:
            started.set()
            assert let_go.wait(PATIENCE_S)
            return name

        return self.queue.submit(model, work)


def test_one_job_runs_at_a_time_in_order() -> None:
    loads = Loads()
    futures = [loads.put(name) for name in "abc"]
    for name, future in zip("abc", futures, strict=True):
        assert loads.started[name].wait(PATIENCE_S)
        assert not any(loads.started[later].is_set() for later in "abc" if later > name)
        loads.let_go[name].set()
        assert future.result(PATIENCE_S) == name


def test_a_slow_job_holds_up_only_its_own_model() -> None:
    loads = Loads()
    loads.put("a")
    loads.put("a", "a again")
    loads.put("b")
    assert loads.started["a"].wait(PATIENCE_S)
    loads.slow = 1
    loads.queue.advance()
    assert loads.started["b"].wait(PATIENCE_S)
    assert not loads.started["a again"].is_set()
    loads.slow = 0
    for name in ("a", "b"):
        loads.let_go[name].set()
    assert loads.started["a again"].wait(PATIENCE_S)
    loads.let_go["a again"].set()


def test_a_job_that_fails_is_followed_by_the_next() -> None:
    loads = Loads()

    def fail() -> None:
        raise SystemExit

    failing, after = loads.queue.submit("a", fail), loads.put("b")
    loads.let_go["b"].set()
    assert after.result(PATIENCE_S) == "b"
    with pytest.raises(SystemExit):
        failing.result(PATIENCE_S)


def test_a_closed_queue_cancels_what_waits_and_what_comes() -> None:
    loads = Loads()
    running, waiting = loads.put("a"), loads.put("b")
    assert loads.started["a"].wait(PATIENCE_S)
    loads.queue.close()
    loads.let_go["a"].set()
    assert running.result(PATIENCE_S) == "a"
    for future in (waiting, loads.put("c")):
        with pytest.raises(CancelledError):
            future.result(PATIENCE_S)
