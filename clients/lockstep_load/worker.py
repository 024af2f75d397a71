"""A worker process of the load generator: runs jobs one after another and reports the results.

The parent sends a `WorkerJob`; the worker prepares requests and a connection and sends `WorkerReady`; on
`StartRun` it sends the load. A thread sends `RecordBatch`es, so that a busy parent cannot delay the load, and
finally `WorkerDone`. `StopRun` ends a run early. A closed pipe ends the process, so none outlives its parent.
"""

from __future__ import annotations

import asyncio
import gc
import queue
import signal
import threading
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from lockstep_load import target_client
from lockstep_load.clock import SystemClock
from lockstep_load.driver import Driver
from lockstep_load.plan import WorkerJob
from lockstep_load.requests import request_pool
from lockstep_load.senders import sender, spread
from lockstep_load.worker_messages import RecordLog, WorkerDone, WorkerFailed, WorkerReady

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

BATCH_INTERVAL_S = 0.2
"""Interval between record batches."""

CONNECT_TIMEOUT_S = 2.0
"""Time to wait for a connection before the run; a server that is away is then counted as unavailable."""


@dataclass(frozen=True)
class StartRun:
    """Start the run; the measured part begins `after_s` seconds from now."""

    after_s: float


@dataclass(frozen=True)
class StopRun:
    """End the run early."""


def main(pipe: Connection) -> None:
    """The main function of the process. SIGINT is ignored: the parent handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with suppress(EOFError, OSError):
        _run(_serve(pipe))


def _run(main_task: Any) -> None:
    if find_spec("uvloop"):
        import uvloop

        uvloop.run(main_task)
    else:
        asyncio.run(main_task)


async def _serve(pipe: Connection) -> None:
    received = _start_receiver(pipe)
    send_queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
    send_thread = threading.Thread(target=_send_messages, args=(pipe, send_queue), daemon=True)
    send_thread.start()
    while (job := await received.get()) is not None:
        if isinstance(job, WorkerJob):  # a StopRun may arrive after its run has ended
            try:
                await run_job(job, received, send_queue.put)
            except Exception as error:  # the parent reports it; the worker continues with the next job
                send_queue.put(WorkerFailed(job.index, f"{type(error).__name__}: {error}"))
    send_queue.put(None)
    send_thread.join(1.0)


async def run_job(job: WorkerJob, received: asyncio.Queue[Any], emit: Callable[[Any], None]) -> None:
    """Run one job, from preparing its requests to `WorkerDone`."""
    requests = request_pool(job)
    async with AsyncExitStack() as stack:
        opened = target_client.channels(job.target)
        channels = [await stack.enter_async_context(channel) for channel in opened]
        with suppress(TimeoutError):
            connecting = (channel.channel_ready() for channel in channels)
            await asyncio.wait_for(asyncio.gather(*connecting), CONNECT_TIMEOUT_S)
        gc.collect()
        gc.freeze()  # keeps the requests out of collections during the run
        emit(WorkerReady(job.index))
        command = await received.get()
        if isinstance(command, StartRun):
            log = RecordLog()
            send = spread([sender(channel, job.target, job.workload) for channel in channels])
            clock = SystemClock()
            driver = Driver(job.share, send, requests, log, clock.now() + command.after_s, clock)
            await _drive(job, driver, log, received, emit)
        else:
            if command is None:  # the pipe has closed; _serve ends on None
                received.put_nowait(None)
            emit(WorkerDone(job.index, 0, False, 0.0, 0.0))
    gc.unfreeze()


async def _drive(
    job: WorkerJob,
    driver: Driver[Any],
    log: RecordLog,
    received: asyncio.Queue[Any],
    emit: Callable[[Any], None],
) -> None:
    meter = CpuMeter(driver)
    running = asyncio.create_task(driver.run())
    stopping = asyncio.create_task(received.get())
    while not running.done():
        awaited = {running} if stopping.done() else {running, stopping}
        await asyncio.wait(awaited, timeout=BATCH_INTERVAL_S, return_when=asyncio.FIRST_COMPLETED)
        if stopping.done():
            driver.stop()
        meter.update(job.load.seconds)
        emit(log.batch(job.index, driver.now_s, driver.in_flight, meter.cpu_s))
    if stopping.cancel():
        await asyncio.wait({stopping})
    elif stopping.result() is None:  # the pipe has closed; _serve ends on None
        received.put_nowait(None)
    running.result()
    emit(log.batch(job.index, driver.now_s, 0, meter.cpu_s))
    emit(WorkerDone(job.index, driver.unsent, driver.capped, meter.cpu_s, meter.wall_s))


class CpuMeter:
    """Measures this process's CPU time in the measured part."""

    def __init__(self, driver: Driver[Any]) -> None:
        self._driver = driver
        self._began: tuple[float, float] | None = None
        self.cpu_s = 0.0
        self.wall_s = 0.0

    def update(self, seconds: float) -> None:
        """Read the clocks. Time outside the measured part is not counted."""
        now_s, cpu_s = self._driver.now_s, time.process_time()
        if now_s >= 0 and self._began is None:
            self._began = (now_s, cpu_s)
        if self._began and now_s <= seconds + BATCH_INTERVAL_S:
            self.wall_s, self.cpu_s = now_s - self._began[0], cpu_s - self._began[1]


def _start_receiver(pipe: Connection) -> asyncio.Queue[Any]:
    """A queue of the parent's messages, ended by None when the pipe closes."""
    received: asyncio.Queue[Any] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def read() -> None:
        with suppress(RuntimeError):  # the loop has ended
            try:
                while True:
                    loop.call_soon_threadsafe(received.put_nowait, pipe.recv())
            except (EOFError, OSError):
                loop.call_soon_threadsafe(received.put_nowait, None)

    threading.Thread(target=read, daemon=True).start()
    return received


def _send_messages(pipe: Connection, send_queue: queue.SimpleQueue[Any]) -> None:
    with suppress(OSError):
        while (message := send_queue.get()) is not None:
            pipe.send(message)
