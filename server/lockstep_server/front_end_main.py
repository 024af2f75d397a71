"""Main program of one of several front ends: `python -m lockstep_server.front_end_main FD`.

`FrontEndConfig` -> an `App` without an engine of its own -> `FrontEndStarted` -> what the supervisor asks,
until `Drain`. Only the supervisor starts it. It exits when its socket closes, so it does not outlive the
supervisor.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from . import logs, memory, messages, supervision
from .app import App, Place
from .errors import LoadError
from .ipc.connection import Connection
from .lifecycle import SWITCH_INTERVAL_S, run_loop
from .metrics import pages
from .settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)


_OTHERS_S = 1.0
"""How long the other front ends may take to send their statistics."""

Statistics = list[tuple[str, int, dict[str, Any]]]


class OthersStatistics:
    """The statistics of the other front ends, which arrive one by one. Event loop only."""

    def __init__(self, number: int, write: Callable[[Sequence[Any]], None]) -> None:
        self._number, self._write = number, write
        self._keys = itertools.count(1)
        self._arrived: dict[int, Statistics] = {}
        self._missing: dict[int, int] = {}
        self._complete: dict[int, asyncio.Event] = {}

    async def ask(self) -> Statistics:
        """What all others have counted; without those that do not answer in time."""
        key = next(self._keys)
        self._arrived[key], self._missing[key], self._complete[key] = [], 0, asyncio.Event()
        self._write([supervision.GetStatistics(key, self._number)])
        with suppress(TimeoutError):
            await asyncio.wait_for(self._complete[key].wait(), _OTHERS_S)
        del self._missing[key], self._complete[key]
        return self._arrived.pop(key)

    def receive(self, message: supervision.StatisticsAsked | supervision.Statistics) -> None:
        if (key := message.key) not in self._missing:
            return
        if isinstance(message, supervision.Statistics):
            self._missing[key] -= 1
            self._arrived[key] += message.models
        else:
            self._missing[key] += message.front_ends
        if not self._missing[key]:
            self._complete[key].set()


class FrontEnd:
    """The app of this process and its supervisor, from the configuration to the end."""

    def __init__(self, control: socket.socket) -> None:
        self._connection = Connection(control, "the supervisor", self._receive, lambda: os._exit(1))
        self._app: App | None = None
        self._others: OthersStatistics | None = None
        self._started = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._state: supervision.ServerState | None = None  # the latest that the app does not know
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def _receive(self, message: Any) -> None:
        app = self._app
        match message:
            case messages.Heartbeat():
                self._connection.write([message])
            case supervision.FrontEndConfig():
                self._run(self._start(message))
            case supervision.ServerState():
                waits, self._state = self._state is not None, message
                if not waits:
                    self._run(self._take_state())
            case supervision.Usage() if app is not None and app.shared_usage is not None:
                app.shared_usage.take(message)
            case supervision.FrontEndCame() if app is not None and app.shared_usage is not None:
                app.shared_usage.send_all()
            case supervision.FrontEndGone() if app is not None and app.shared_usage is not None:
                app.shared_usage.forget(message.number)
            case supervision.GetStatistics() if app is not None:
                models = [
                    (one.spec.name, one.spec.version, one.statistics.to_dict())
                    for one in app.registry.served_models()
                ]
                self._connection.write([supervision.Statistics(message.key, message.asker, models)])
            case supervision.StatisticsAsked() | supervision.Statistics() if self._others is not None:
                self._others.receive(message)
            case supervision.GetReport():
                self._run(self._report(message.key))
            case supervision.Drain():
                self._run(self._stop())

    def _run(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the front end failed", exc_info=error)
            self._end(1)

    async def _start(self, config: supervision.FrontEndConfig) -> None:
        settings = Settings(**config.settings)
        logs.configure(settings.log_level, settings.log_format)
        write = self._connection.write
        self._others = OthersStatistics(config.number, write)
        place = Place(
            config.number,
            config.engine,
            config.server,
            ready=lambda ready: write([supervision.FrontEndState(ready)]),
            send=lambda usage: write([usage]),
            drained=lambda clean: write([supervision.Drained(clean)]),
            ask_others=self._others.ask,
        )
        try:
            self._app = App(settings, place=place)
            await self._app.start()
        except LoadError as error:
            write([supervision.FrontEndFailed(str(error))])
            self._end(1)
            return
        self._started = True
        memory.keep_all()
        write([supervision.FrontEndStarted()])

    async def _take_state(self) -> None:
        state, self._state = self._state, None
        if self._app is not None and state is not None:
            await self._app.set_server_state(state)

    async def _report(self, key: int) -> None:
        """Collecting takes milliseconds, so a thread does it."""
        app = self._app
        found = await asyncio.to_thread(self._pages, app) if app is not None else []
        self._connection.write([supervision.Report(key, found)])

    @staticmethod
    def _pages(app: App) -> list[supervision.MetricPage]:
        return pages.take(app.metrics.registry)

    async def _stop(self) -> None:
        if self._app is not None and self._started:
            await self._app.stop()
        self._end(0)

    def _end(self, code: int) -> None:
        if not self.ended.done():
            self.ended.set_result(code)


async def _serve(control: socket.socket) -> int:
    return await FrontEnd(control).ended


def main() -> None:
    # The supervisor handles the signals, and ends this process by a message.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    with socket.socket(fileno=int(sys.argv[1])) as control:
        code = run_loop(_serve(control))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a tokenizer that does not end must not keep the process


if __name__ == "__main__":
    main()
