"""Due times are delivered on time, in batches to a slow loop, and counted if never delivered."""

from __future__ import annotations

import asyncio
import time

from lockstep_load.pacer import GRACE_S, Pacer


async def test_due_times_are_delivered_in_order_and_not_early() -> None:
    dues = [at / 50 for at in range(25)]
    begin, seen = time.perf_counter(), []

    def on_due(some: list[float]) -> None:
        now = time.perf_counter() - begin
        seen.extend((due, now) for due in some)

    pacer = Pacer(iter(dues), begin, 0.5)
    await pacer.run(on_due)
    await asyncio.sleep(0)
    assert [due for due, _ in seen] == dues
    assert all(now >= due for due, now in seen)
    assert pacer.unsent == 0


async def test_a_slow_loop_gets_the_backlog_in_one_batch() -> None:
    batches: list[list[float]] = []

    def on_due(some: list[float]) -> None:
        batches.append(some)
        if len(batches) == 1:
            time.sleep(0.1)  # the loop is busy

    dues = [at / 1000 for at in range(100)]
    await Pacer(iter(dues), time.perf_counter(), 10.0).run(on_due)
    await asyncio.sleep(0)
    assert [due for batch in batches for due in batch] == dues
    assert len(batches) <= 2


async def test_due_times_not_delivered_by_the_end_are_counted() -> None:
    begin, end_s = time.perf_counter() + 1.0, 0.1

    def on_due(some: list[float]) -> None:
        over = begin + end_s + GRACE_S + 0.05
        time.sleep(max(over - time.perf_counter(), 0.0))  # the loop is busy until after the end

    dues = [-1.0, *(at / 1000 for at in range(100))]
    pacer = Pacer(iter(dues), begin, end_s)
    await pacer.run(on_due)
    assert pacer.unsent == 100


async def test_a_stopped_schedule_has_nothing_unsent() -> None:
    taken: list[float] = []
    pacer = Pacer(iter([0.0, 60.0]), time.perf_counter(), 120.0)

    def on_due(some: list[float]) -> None:
        taken.extend(some)
        pacer.stop()

    await asyncio.wait_for(pacer.run(on_due), 10)
    assert taken == [0.0]
    assert pacer.unsent == 0
