"""Due times are delivered on time, in batches to a slow loop, and counted if never delivered."""

from __future__ import annotations

import asyncio

from unit.load.fake_clock import FakeClock

from lockstep_load.clock import SystemClock
from lockstep_load.pacer import GRACE_S, Pacer


async def test_due_times_are_delivered_in_order_and_not_early() -> None:
    dues = [at / 50 for at in range(25)]
    clock, seen = FakeClock(), list[tuple[float, float]]()

    def on_due(some: list[float]) -> None:
        seen.extend((due, clock.now()) for due in some)

    pacer = Pacer(iter(dues), 0.0, 0.5, clock)
    await pacer.run(on_due)
    await asyncio.sleep(0)  # the last batch
    assert [due for due, _ in seen] == dues
    assert all(now >= due for due, now in seen)
    assert pacer.unsent == 0


async def test_the_systems_clock_paces_too() -> None:
    clock, seen = SystemClock(), list[float]()
    begin = clock.now()
    await Pacer(iter([0.0, 0.01, 0.02]), begin, 0.03, clock).run(seen.extend)
    await asyncio.sleep(0)
    assert seen == [0.0, 0.01, 0.02]
    assert clock.now() - begin >= 0.02


async def test_a_slow_loop_gets_the_backlog_in_one_batch() -> None:
    clock, batches = FakeClock(), list[list[float]]()

    def on_due(some: list[float]) -> None:
        batches.append(some)
        if len(batches) == 1:
            clock.sleep(0.1)  # the loop is busy

    dues = [at / 1000 for at in range(100)]
    await Pacer(iter(dues), 0.0, 10.0, clock).run(on_due)
    await asyncio.sleep(0)
    assert batches == [dues[:1], dues[1:]]


async def test_due_times_not_delivered_by_the_end_are_counted() -> None:
    clock, end_s = FakeClock(), 0.1

    def on_due(some: list[float]) -> None:
        clock.advance_to(1.0 + end_s + GRACE_S + 0.05)  # the loop is busy until after the end

    dues = [-1.0, *(at / 1000 for at in range(100))]
    pacer = Pacer(iter(dues), 1.0, end_s, clock)
    await pacer.run(on_due)
    assert pacer.unsent == 100


async def test_a_stopped_schedule_has_nothing_unsent() -> None:
    taken: list[float] = []
    pacer = Pacer(iter([0.0, 60.0]), 0.0, 120.0, FakeClock())

    def on_due(some: list[float]) -> None:
        taken.extend(some)
        pacer.stop()

    await pacer.run(on_due)
    assert taken == [0.0]
    assert pacer.unsent == 0
