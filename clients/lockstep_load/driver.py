"""One worker's share of a run: sends each request when it is due and records how it ended.

Open loop: `Pacer` delivers due times, and sending never waits for answers. Closed loop: a fixed number of
callers with one request in flight each. Latency counts from the due time; in a closed loop that is the time
of sending.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from contextlib import suppress
from itertools import cycle
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import grpc
import grpc.aio

from lockstep_load import outcome as outcomes
from lockstep_load.arrivals import arrivals
from lockstep_load.outcome import RequestOutcome
from lockstep_load.pacer import Pacer
from lockstep_load.plan import OpenLoop
from lockstep_load.senders import ReplyTimes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from lockstep_load.clock import Clock
    from lockstep_load.plan import LoadShare
    from lockstep_load.worker_messages import RecordLog

FAILURE_PAUSE_S = 0.1
"""Pause of a closed loop's caller after a failed request, so that rejections do not become a busy loop."""


class SentRequest(Protocol):
    """What the driver needs to know of a request; the rest is between its maker and its sender."""

    @property
    def length(self) -> int:
        """Elements in all rows."""


Request = TypeVar("Request", bound=SentRequest)


class Driver(Generic[Request]):
    """Sends the requests of one share of a load, in turn.

    The measured part starts at `begin`, a time of the clock.
    """

    def __init__(
        self,
        share: LoadShare,
        send: Callable[[Request, ReplyTimes], Awaitable[None]],
        requests: Sequence[Request],
        log: RecordLog,
        begin: float,
        clock: Clock,
    ) -> None:
        self._share, self._send_request, self._log = share, send, log
        self._begin, self._clock = begin, clock
        self._requests = cycle(requests)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._deferred: deque[float] = deque()
        self._pacer: Pacer | None = None
        self._remaining = math.inf if share.samples is None else share.samples
        self._stopped = False
        self._idle = asyncio.Event()
        """Set when the last task has ended, and by `stop`."""
        self.in_flight = 0
        self.capped = False

    @property
    def unsent(self) -> int:
        """Requests due in the measured part that were never sent; offline, samples left when time ran out."""
        samples = 0 if math.isinf(self._remaining) else int(self._remaining)
        return samples + (self._pacer.unsent if self._pacer else 0) + sum(due >= 0 for due in self._deferred)

    @property
    def now_s(self) -> float:
        """Seconds after the start of the measured part; negative during the warm-up."""
        return self._clock.now() - self._begin

    async def run(self) -> None:
        """Send all requests and wait until each has ended. Cancelling it cancels the requests in flight."""
        try:
            if isinstance(self._share.load.pattern, OpenLoop):
                await self._run_open_loop(self._share.load.pattern)
            else:
                await self._run_closed_loop()
            self._idle.clear()
            if self._tasks and not self._stopped:
                await self._idle.wait()
        except asyncio.CancelledError:
            self.stop()
            raise
        finally:
            for task in self._tasks:
                task.cancel()
            if self._tasks:  # not gather, which raises if a task was cancelled before its first step
                await asyncio.wait(self._tasks)

    def stop(self) -> None:
        """Send no more requests and cancel those in flight."""
        self._stopped = True
        self._idle.set()
        self._remaining = 0
        if self._pacer:
            self._pacer.stop()

    async def _run_open_loop(self, pattern: OpenLoop) -> None:
        load = self._share.load
        schedule = arrivals(
            pattern.arrivals,
            pattern.rate,
            -load.warmup_s,
            load.seconds,
            seed=load.seed,
            index=self._share.index,
            of=load.processes,
        )
        self._pacer = Pacer(schedule, self._begin, load.seconds, self._clock)
        await self._pacer.run(self._send_all)

    def _send_all(self, dues: list[float]) -> None:
        for due in dues:
            if not self._stopped:
                self._send(due)

    def _send(self, due: float) -> None:
        if self.in_flight >= self._share.max_in_flight:
            self.capped = True
            self._deferred.append(due)
            return
        self.in_flight += 1
        self._start(self._run_request(due)).add_done_callback(self._on_answer)

    def _on_answer(self, task: asyncio.Task[Any]) -> None:
        self.in_flight -= 1
        if self._deferred and not self._stopped and self.now_s < self._share.load.seconds:
            self._send(self._deferred.popleft())
        self._on_end(task)

    async def _run_closed_loop(self) -> None:
        wait_s = -self._share.load.warmup_s - self.now_s
        if wait_s > 0:
            await self._clock.pause(wait_s)
        for _ in range(self._share.concurrency):
            self._start(self._run_caller()).add_done_callback(self._on_end)

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        return task

    def _on_end(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._idle.set()

    async def _run_caller(self) -> None:
        while self._remaining > 0 and (now_s := self.now_s) < self._share.load.seconds:
            self._remaining -= now_s >= 0
            self.in_flight += 1
            try:
                outcome = await self._run_request(None)
            finally:
                self.in_flight -= 1
            if outcome is not RequestOutcome.OK:
                with suppress(asyncio.CancelledError):  # only stop() cancels callers
                    await self._clock.pause(FAILURE_PAUSE_S)

    async def _run_request(self, due: float | None) -> RequestOutcome:
        """Send one request and record it. Cancellation is an outcome too."""
        request, sent = next(self._requests), self.now_s
        times = ReplyTimes(self._on_tokens, self._clock.now)
        outcome = RequestOutcome.OK
        try:
            await self._send_request(request, times)
        except grpc.aio.AioRpcError as error:
            outcome = self._outcome_of(error)
        except asyncio.CancelledError:
            outcome = RequestOutcome.CANCELLED
        except Exception as error:  # an unreadable reply fails this request only
            outcome = RequestOutcome.FAILED
            self._log.add_example(outcome, f"{type(error).__name__}: {error}")
        self._record(sent if due is None else due, sent, request, times, outcome)
        return outcome

    def _outcome_of(self, error: grpc.aio.AioRpcError) -> RequestOutcome:
        details = error.details() or ""
        outcome = outcomes.outcome_of(error.code(), details)
        self._log.add_example(outcome, details or error.code().name)
        return outcome

    def _record(
        self, due: float, sent: float, request: Request, times: ReplyTimes, outcome: RequestOutcome
    ) -> None:
        first = per_token = math.nan
        if times.tokens:
            first = times.first - self._begin - due
        if times.tokens > 1:
            per_token = (times.last - times.first) / (times.tokens - 1)
        if due >= 0:
            self._log.gaps.extend(times.gaps)
        took = self.now_s - due
        self._log.records.append(
            (due, sent - due, took, first, per_token, request.length, times.tokens, int(outcome))
        )

    def _on_tokens(self, at: float, tokens: int) -> None:
        self._log.count_tokens(at - self._begin, tokens)
