"""One worker's share of a run, on a clock that never waits."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from unit.load.fake_clock import FakeClock

from lockstep_load.driver import FAILURE_PAUSE_S, Driver
from lockstep_load.lengths import parse
from lockstep_load.outcome import RequestOutcome
from lockstep_load.plan import (
    ClosedLoop,
    LoadPattern,
    LoadProfile,
    Offline,
    OpenLoop,
    Target,
    Workload,
    worker_jobs,
)
from lockstep_load.requests import request_pool
from lockstep_load.worker_messages import RecordLog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from lockstep_load.requests import PreparedRequest
    from lockstep_load.senders import ReplyTimes

    Send = Callable[[PreparedRequest, ReplyTimes], Awaitable[None]]


def driver(
    pattern: LoadPattern, seconds: float, send: Send, clock: FakeClock, begin: float = 0.0, **how: Any
) -> tuple[Driver[PreparedRequest], RecordLog]:
    lengths = parse("3")
    assert lengths is not None
    load = LoadProfile(pattern, seconds, **{"warmup_s": 0.0, **how})
    (job,) = worker_jobs(Target("localhost:1", "m"), Workload("classify", lengths), load)
    log = RecordLog()
    return Driver(job.share, send, request_pool(job, 4), log, begin, clock), log


def answer_after(clock: FakeClock, seconds: float) -> Send:
    async def send(request: PreparedRequest, times: ReplyTimes) -> None:
        await clock.pause(seconds)

    return send


async def refuse(request: PreparedRequest, times: ReplyTimes) -> None:
    raise RuntimeError("refused")


async def test_a_closed_loop_sends_when_the_previous_request_has_been_answered() -> None:
    clock = FakeClock()
    made, log = driver(ClosedLoop(2), 1.0, answer_after(clock, 0.25), clock)
    await made.run()
    assert [due for due, *_ in log.records] == pytest.approx([0, 0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75])
    assert [took for _, _, took, *_ in log.records] == pytest.approx([0.25] * 8)
    assert (made.unsent, made.in_flight) == (0, 0)


async def test_the_warm_up_comes_before_the_measured_part() -> None:
    clock = FakeClock()
    made, log = driver(ClosedLoop(1), 0.5, answer_after(clock, 0.25), clock, begin=2.0, warmup_s=0.5)
    await made.run()
    assert [due for due, *_ in log.records] == pytest.approx([-0.5, -0.25, 0.0, 0.25])


async def test_a_caller_pauses_after_a_failure() -> None:
    clock = FakeClock()
    made, log = driver(ClosedLoop(1), 2.5 * FAILURE_PAUSE_S, refuse, clock)
    await made.run()
    assert [due for due, *_ in log.records] == pytest.approx([0.0, FAILURE_PAUSE_S, 2 * FAILURE_PAUSE_S])
    assert log.examples == {RequestOutcome.FAILED: "RuntimeError: refused"}


async def test_a_closed_loop_can_be_stopped_while_its_callers_pause() -> None:
    pausing = asyncio.Event()

    class StoppedClock(FakeClock):
        async def pause(self, seconds: float) -> None:
            pausing.set()
            await asyncio.Event().wait()

    made, log = driver(ClosedLoop(2), 10.0, refuse, StoppedClock())
    running = asyncio.create_task(made.run())
    await pausing.wait()
    made.stop()
    await running
    assert [code for *_, code in log.records] == [RequestOutcome.FAILED] * 2


async def test_a_stopped_run_cancels_the_requests_in_flight() -> None:
    sent = asyncio.Event()

    async def send(request: PreparedRequest, times: ReplyTimes) -> None:
        sent.set()
        await asyncio.Event().wait()

    made, log = driver(ClosedLoop(1), 10.0, send, FakeClock())
    running = asyncio.create_task(made.run())
    await sent.wait()
    made.stop()
    await running
    assert [code for *_, code in log.records] == [RequestOutcome.CANCELLED]


async def test_a_cancelled_run_cancels_the_requests_in_flight_and_sends_no_more() -> None:
    sent: list[PreparedRequest] = []
    sending = asyncio.Event()

    async def send(request: PreparedRequest, times: ReplyTimes) -> None:
        sent.append(request)
        sending.set()
        await asyncio.Event().wait()

    made, log = driver(Offline(50, 1), 10.0, send, FakeClock())
    running = asyncio.create_task(made.run())
    await sending.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [code for *_, code in log.records] == [RequestOutcome.CANCELLED]
    assert len(sent) == 1


async def test_offline_samples_left_when_time_runs_out_count_as_unsent() -> None:
    clock = FakeClock()
    made, log = driver(Offline(samples=50, concurrency=1), 1.0, answer_after(clock, 0.25), clock)
    await made.run()
    assert (len(log.records), made.unsent) == (4, 46)


async def test_an_open_loop_sends_every_request_and_counts_latency_from_the_due_time() -> None:
    clock, gate, sent = FakeClock(), asyncio.Event(), asyncio.Semaphore(0)

    async def send(request: PreparedRequest, times: ReplyTimes) -> None:
        sent.release()
        await gate.wait()

    made, log = driver(OpenLoop(100.0, "constant"), 0.1, send, clock)
    running = asyncio.create_task(made.run())
    for _ in range(10):  # none has been answered, yet all are sent
        await sent.acquire()
    clock.advance_to(1.0)
    gate.set()
    await running
    assert [due for due, *_ in log.records] == pytest.approx([at / 100 for at in range(10)])
    assert [took for _, _, took, *_ in log.records] == pytest.approx([1 - at / 100 for at in range(10)])
    assert not made.capped


async def test_requests_above_the_limit_wait_and_are_reported() -> None:
    clock, gate = FakeClock(), asyncio.Event()

    async def send(request: PreparedRequest, times: ReplyTimes) -> None:
        await gate.wait()

    made, log = driver(OpenLoop(10.0, "constant"), 1.0, send, clock, max_in_flight=2)
    running = asyncio.create_task(made.run())
    while True:
        await asyncio.sleep(0)
        if made.unsent == 8:
            break
    assert made.in_flight == 2
    clock.advance_to(5.0)  # too late for the others
    gate.set()
    await running
    assert (made.capped, made.unsent, len(log.records)) == (True, 8, 2)


async def test_tokens_are_timed_by_the_same_clock() -> None:
    clock = FakeClock()

    async def send(request: PreparedRequest, times: ReplyTimes) -> None:
        for _ in range(3):
            await clock.pause(0.25)
            times.record(1)

    made, log = driver(ClosedLoop(1), 0.5, send, clock)
    await made.run()
    [(_, _, took, first, per_token, _, tokens, _)] = log.records
    assert (took, first, per_token, tokens) == pytest.approx((0.75, 0.25, 0.25, 3))
    assert log.gaps == pytest.approx([0.25, 0.25])
    assert log.tokens == {0: 3}
