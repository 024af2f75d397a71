"""The device scheduler: leases, fairness by device time, and the limit of runs on a contended device."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

import pytest
from patience import PATIENCE_S, wait_until

from lockstep_server.engine.runtime.device_scheduler import Claim, DeviceAccount, DeviceScheduler

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def yielding(name: str) -> DeviceAccount:
    return DeviceAccount(name, yields_cpu=True)


def queue_up(
    device_scheduler: DeviceScheduler,
    order: list[str],
    waiters: list[tuple[DeviceAccount, float]],
    claims: dict[str, Claim] | None = None,
    work: Callable[[], None] = lambda: None,
) -> list[threading.Thread]:
    """Threads that wait for a lease, append their names to `order` when they get one, and work."""
    threads = []
    for account, deadline in waiters:

        def acquire(account: DeviceAccount = account, deadline: float = deadline) -> None:
            with device_scheduler.lease(account, deadline, lambda: (claims or {}).get(account.name)):
                order.append(account.name)
                work()

        threads.append(threading.Thread(target=acquire))
        threads[-1].start()
        wait_until(lambda: device_scheduler.waiting() == len(threads), "the waiters are as expected")
    return threads


@pytest.mark.parametrize(("leases", "yields", "expected"), [(1, 0, 1), (1, 6, 1), (3, 6, 3), (3, 0, 2)])
def test_leases_limit_concurrent_runs(leases: int, yields: int, expected: int) -> None:
    """Accounts that do not yield the CPU leave one lease free."""
    device_scheduler, running, most_running, lock = DeviceScheduler(leases), 0, 0, threading.Lock()
    accounts = [DeviceAccount(str(i), yields_cpu=i < yields) for i in range(6)]
    assert {device_scheduler.max_leases(account) for account in accounts} == {expected}

    def work(account: DeviceAccount) -> None:
        nonlocal running, most_running
        for _ in range(50):
            with device_scheduler.lease(account, 0.0):
                with lock:
                    running += 1
                    most_running = max(most_running, running)
                with lock:
                    running -= 1

    threads = [threading.Thread(target=work, args=(account,)) for account in accounts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert most_running <= expected
    assert device_scheduler.waiting() == 0


def test_the_account_with_the_least_device_time_goes_first() -> None:
    clock = Clock()
    device_scheduler = DeviceScheduler(clock=clock)
    order: list[str] = []
    greedy, modest = DeviceAccount("greedy"), DeviceAccount("modest")
    with device_scheduler.lease(greedy, 0.0):
        clock.now += 5
    with device_scheduler.lease(DeviceAccount("holder"), 0.0):
        threads = queue_up(device_scheduler, order, [(greedy, 0.0), (modest, 1e9)])
    for thread in threads:
        thread.join(PATIENCE_S)
    assert order == ["modest", "greedy"]


def test_ties_go_to_the_earliest_deadline() -> None:
    device_scheduler = DeviceScheduler(clock=Clock())
    order: list[str] = []
    with device_scheduler.lease(DeviceAccount("holder"), 0.0):
        threads = queue_up(
            device_scheduler,
            order,
            [(DeviceAccount("late"), 9.0), (DeviceAccount("soon"), 1.0), (DeviceAccount("between"), 5.0)],
        )
    for thread in threads:
        thread.join(PATIENCE_S)
    assert order == ["soon", "between", "late"]


def test_device_time_decays() -> None:
    account = DeviceAccount("one")
    account.charge(8.0, now=0.0)
    assert account.recent_s(3.0) == pytest.approx(1.0)


def test_runs_are_unlimited_while_one_engine_uses_the_device() -> None:
    clock = Clock()
    device_scheduler, account = DeviceScheduler(max_run_s=0.02, clock=clock), DeviceAccount("one")
    for _ in range(3):
        with device_scheduler.lease(account, 0.0) as lease:
            assert lease.max_run_s is None


def test_runs_are_limited_while_another_engine_uses_the_device() -> None:
    clock = Clock()
    device_scheduler, one, other = (
        DeviceScheduler(max_run_s=0.02, clock=clock),
        DeviceAccount("one"),
        DeviceAccount("other"),
    )
    with device_scheduler.lease(other, 0.0):
        pass
    with device_scheduler.lease(one, 0.0) as lease:
        assert lease.max_run_s == 0.02
    clock.now += 10
    with device_scheduler.lease(one, 0.0) as lease:
        assert lease.max_run_s is None


def test_a_lease_holds_the_waiting_time() -> None:
    clock = Clock()
    device_scheduler, waited = DeviceScheduler(clock=clock), []

    def wait() -> None:
        with device_scheduler.lease(DeviceAccount("waiter"), 0.0) as lease:
            waited.append(lease.waited_s)

    with device_scheduler.lease(DeviceAccount("holder"), 0.0):
        thread = threading.Thread(target=wait)
        thread.start()
        wait_until(lambda: device_scheduler.waiting() == 1, "the waiters are as expected")
        clock.now += 3
    thread.join(PATIENCE_S)
    assert waited == [3]


def test_exclusive_waits_for_all_leases_and_holds_them() -> None:
    device_scheduler, order, entered = DeviceScheduler(leases=2), [], threading.Event()

    def measure() -> None:
        with device_scheduler.exclusive(DeviceAccount("measuring")):
            order.append("exclusive")
            entered.set()

    with device_scheduler.lease(DeviceAccount("a"), 0.0), device_scheduler.lease(yielding("b"), 0.0):
        thread = threading.Thread(target=measure)
        thread.start()
        wait_until(lambda: device_scheduler.waiting() == 1, "the waiters are as expected")
        assert not entered.is_set()
    thread.join(PATIENCE_S)
    with device_scheduler.exclusive(DeviceAccount("again")):
        waiting = queue_up(device_scheduler, order, [(DeviceAccount("after"), 0.0)])
        assert order == ["exclusive"]
    waiting[0].join(PATIENCE_S)
    assert order == ["exclusive", "after"]


def test_steps_go_on_while_a_measurement_waits_for_a_run_that_yields_the_cpu() -> None:
    device_scheduler, order = DeviceScheduler(leases=2), list[str]()

    def start(name: str, lease: Any, waiting: int) -> threading.Thread:
        def take() -> None:
            with lease:
                order.append(name)

        thread = threading.Thread(target=take)
        thread.start()
        wait_until(lambda: device_scheduler.waiting() == waiting, f"{waiting} wait")
        return thread

    step = DeviceAccount("step")
    with device_scheduler.lease(yielding("one-shot"), 0.0):
        threads = [start("measurement", device_scheduler.exclusive(DeviceAccount("load")), 1)]
        threads.append(start("one-shot", device_scheduler.lease(yielding("other"), math.inf), 2))
        for _ in range(3):
            with device_scheduler.lease(step, math.inf):
                order.append("step")
        last = device_scheduler.lease(step, math.inf)
        last.__enter__()
    threads.append(start("late step", device_scheduler.lease(DeviceAccount("late"), math.inf), 3))
    assert order == ["step"] * 3, "the measurement is next, once the last step has ended"
    last.__exit__()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert order[3] == "measurement"
    assert sorted(order[4:]) == ["late step", "one-shot"]


def test_an_account_that_was_idle_is_ahead_of_the_others_by_one_run_at_most() -> None:
    clock = Clock()
    device_scheduler = DeviceScheduler(max_run_s=0.02, clock=clock)
    busy, new = DeviceAccount("busy"), DeviceAccount("new")
    for account, took_s in ((busy, 0.5), (busy, 0.001), (new, 0.03)):
        with device_scheduler.lease(account, 0.0):
            clock.now += took_s
    assert new.recent_s(clock.now) > busy.recent_s(clock.now)


def test_a_failed_run_returns_its_lease() -> None:
    device_scheduler = DeviceScheduler()
    with pytest.raises(ZeroDivisionError), device_scheduler.lease(DeviceAccount("one"), 0.0):
        raise ZeroDivisionError
    with device_scheduler.exclusive(DeviceAccount("other")):
        assert device_scheduler.waiting() == 0


def test_a_waiter_for_an_unreserved_lease_does_not_block_yielding_accounts() -> None:
    device_scheduler = DeviceScheduler(leases=2)
    order: list[str] = []
    first, second = (
        device_scheduler.lease(DeviceAccount("step"), 0.0),
        device_scheduler.lease(yielding("one-shot"), 0.0),
    )
    with first:
        waiting = queue_up(device_scheduler, order, [(DeviceAccount("another step"), 0.0)])
        with second:  # although the other waiter came first
            assert device_scheduler.waiting() == 1
        assert order == []
    for thread in waiting:
        thread.join(PATIENCE_S)
    assert order == ["another step"]


@pytest.mark.parametrize(
    ("mine", "theirs", "ran_s", "first"),
    [
        (Claim("one", 0, since=5.0), Claim("one", 0, since=2.0), 5.0, "theirs"),
        (Claim("one", 0, since=2.0), Claim("one", 0, since=5.0), 5.0, "mine"),
        (Claim("one", 0, since=5.0), Claim("two", 0, since=2.0), 5.0, "mine"),
        (Claim("one", 1, since=5.0), Claim("one", 0, since=2.0), 5.0, "mine"),
        (Claim("one", 0, since=5.0), None, 5.0, "mine"),
        (None, Claim("one", 0, since=2.0), 5.0, "mine"),
        (Claim("one", 0, since=5.0), Claim("one", 0, since=2.0), 11.0, "mine"),
    ],
    ids=["older", "younger", "other caller", "other priority", "several callers", "mine of several", "flood"],
)
def test_a_turn_is_passed_to_older_requests_of_the_same_caller(
    mine: Claim | None, theirs: Claim | None, ran_s: float, first: str
) -> None:
    """Unless the other engine has run for more than ten times as long."""
    clock = Clock()
    device_scheduler, order = DeviceScheduler(clock=clock), list[str]()
    accounts = [DeviceAccount("mine"), DeviceAccount("theirs")]
    claims = {name: claim for name, claim in (("mine", mine), ("theirs", theirs)) if claim is not None}
    for account, used_s in zip(accounts, (1.0, ran_s), strict=True):
        account.charge(used_s, clock.now)
    with device_scheduler.lease(DeviceAccount("holder"), 0.0):
        threads = queue_up(device_scheduler, order, [(one, 0.0) for one in accounts], claims)
    for thread in threads:
        thread.join(PATIENCE_S)
    assert order == [first, *{"mine", "theirs"} - {first}]


def test_the_engine_that_passes_its_turn_pays_for_the_run() -> None:
    """So the models of a caller that uses several get no more of the device than without passing."""
    clock = Clock()
    device_scheduler, order = DeviceScheduler(clock=clock), list[str]()
    accounts = [DeviceAccount("mine"), DeviceAccount("theirs")]
    claims = {"mine": Claim("one", 0, since=5.0), "theirs": Claim("one", 0, since=2.0)}
    for account, used_s in zip(accounts, (1.0, 2.0), strict=True):
        account.charge(used_s, clock.now)

    def work() -> None:
        clock.now += 0.25 if order == ["theirs"] else 0.0

    with device_scheduler.lease(DeviceAccount("holder"), 0.0):
        threads = queue_up(device_scheduler, order, [(one, 0.0) for one in accounts], claims, work)
    for thread in threads:
        thread.join(PATIENCE_S)
    assert order == ["theirs", "mine"]
    kept = 0.5**0.25  # of what was used before
    assert [one.recent_s(clock.now) for one in accounts] == pytest.approx([kept + 0.25, 2 * kept])
    assert [one.recently_ran_s(clock.now) for one in accounts] == pytest.approx([kept, 2 * kept + 0.25])
