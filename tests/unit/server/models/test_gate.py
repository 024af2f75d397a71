"""The gate: permits, fairness by device time, and a bound while others want the device."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from lockstep_server.models.gate import Gate, Share

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_S = 30.0


class Clock:
    """Moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def yielding(name: str) -> Share:
    return Share(name, lets_others_first=True)


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.001)


def queue_up(gate: Gate, order: list[str], waiters: list[tuple[Share, float]]) -> list[threading.Thread]:
    """Threads that wait at the gate and note in which order they were let in."""
    threads = []
    for share, deadline in waiters:

        def enter(share: Share = share, deadline: float = deadline) -> None:
            with gate.turn(share, deadline):
                order.append(share.name)

        threads.append(threading.Thread(target=enter))
        threads[-1].start()
        until(lambda: gate.waiting() == len(threads))
    return threads


@pytest.mark.parametrize(("permits", "yields", "expected"), [(1, 0, 1), (1, 6, 1), (3, 6, 3), (3, 0, 2)])
def test_no_more_run_at_once_than_there_are_permits(permits: int, yields: int, expected: int) -> None:
    """One permit is kept of those whose runs do not let others go first."""
    gate, running, most, lock = Gate("cpu", permits), 0, 0, threading.Lock()
    shares = [Share(str(i), lets_others_first=i < yields) for i in range(6)]
    assert {gate.most(share) for share in shares} == {expected}

    def work(share: Share) -> None:
        nonlocal running, most
        for _ in range(50):
            with gate.turn(share, 0.0):
                with lock:
                    running += 1
                    most = max(most, running)
                with lock:
                    running -= 1

    threads = [threading.Thread(target=work, args=(share,)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert most <= expected
    assert gate.waiting() == 0


def test_who_used_the_device_least_goes_first() -> None:
    clock = Clock()
    gate, order = Gate("cpu", clock=clock), []
    greedy, modest = Share("greedy"), Share("modest")
    with gate.turn(greedy, 0.0):
        clock.now += 5
    with gate.turn(Share("holder"), 0.0):
        threads = queue_up(gate, order, [(greedy, 0.0), (modest, 1e9)])
    for thread in threads:
        thread.join(PATIENCE_S)
    assert order == ["modest", "greedy"]


def test_among_equals_the_earliest_deadline_goes_first() -> None:
    gate, order = Gate("cpu", clock=Clock()), []
    with gate.turn(Share("holder"), 0.0):
        threads = queue_up(gate, order, [(Share("late"), 9.0), (Share("soon"), 1.0), (Share("between"), 5.0)])
    for thread in threads:
        thread.join(PATIENCE_S)
    assert order == ["soon", "between", "late"]


def test_device_time_fades() -> None:
    share = Share("one")
    share.charge(8.0, now=0.0)
    assert share.used_lately(3.0) == pytest.approx(1.0)


def test_alone_there_is_no_bound_on_a_run() -> None:
    clock = Clock()
    gate, share = Gate("cpu", max_run_s=0.02, clock=clock), Share("one")
    for _ in range(3):
        with gate.turn(share, 0.0) as turn:
            assert turn.max_run_s is None


def test_while_another_wants_the_device_a_run_is_bounded() -> None:
    clock = Clock()
    gate, one, other = Gate("cpu", max_run_s=0.02, clock=clock), Share("one"), Share("other")
    with gate.turn(other, 0.0):
        pass
    with gate.turn(one, 0.0) as turn:
        assert turn.max_run_s == 0.02
    clock.now += 10
    with gate.turn(one, 0.0) as turn:
        assert turn.max_run_s is None


def test_a_turn_tells_how_long_it_was_waited_for() -> None:
    clock = Clock()
    gate, waited = Gate("cpu", clock=clock), []

    def wait() -> None:
        with gate.turn(Share("waiter"), 0.0) as turn:
            waited.append(turn.waited_s)

    with gate.turn(Share("holder"), 0.0):
        thread = threading.Thread(target=wait)
        thread.start()
        until(lambda: gate.waiting() == 1)
        clock.now += 3
    thread.join(PATIENCE_S)
    assert waited == [3]


def test_alone_holds_every_permit_and_waits_for_all() -> None:
    gate, order, entered = Gate("cpu", permits=2), [], threading.Event()

    def measure() -> None:
        with gate.alone(Share("measuring")):
            order.append("alone")
            entered.set()

    with gate.turn(Share("a"), 0.0), gate.turn(yielding("b"), 0.0):
        thread = threading.Thread(target=measure)
        thread.start()
        until(lambda: gate.waiting() == 1)
        assert not entered.is_set()
    thread.join(PATIENCE_S)
    with gate.alone(Share("again")):
        waiting = queue_up(gate, order, [(Share("after"), 0.0)])
        assert order == ["alone"]
    waiting[0].join(PATIENCE_S)
    assert order == ["alone", "after"]


def test_a_run_that_fails_gives_its_permit_back() -> None:
    gate = Gate("cpu")
    with pytest.raises(ZeroDivisionError), gate.turn(Share("one"), 0.0):
        raise ZeroDivisionError
    with gate.alone(Share("other")):
        assert gate.waiting() == 0


def test_whose_kind_has_all_that_it_may_holds_up_nobody_of_another() -> None:
    gate, order = Gate("cpu", permits=2), []
    first, second = gate.turn(Share("step"), 0.0), gate.turn(yielding("one-shot"), 0.0)
    with first:
        waiting = queue_up(gate, order, [(Share("another step"), 0.0)])
        with second:  # though another waits, and waits longer
            assert gate.waiting() == 1
        assert order == []
    for thread in waiting:
        thread.join(PATIENCE_S)
    assert order == ["another step"]
