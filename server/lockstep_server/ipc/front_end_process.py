"""One of several front-end processes, on the supervisor's side: it is started, asked, and ended."""

from __future__ import annotations

import asyncio
import time
from subprocess import TimeoutExpired
from typing import TYPE_CHECKING, Any

from .. import messages, supervision
from ..errors import LoadError
from .child_process import ChildProcess, exit_text
from .connection import Connection
from .heartbeat import Heartbeat

if TYPE_CHECKING:
    from collections.abc import Callable

MODULE = "lockstep_server.front_end_main"

_EXIT_S = 5.0
"""How long to wait for a process that has closed its connection, before it is killed."""


class FrontEndProcess:
    """One front end that runs. `on_message` gets what it sends, `on_end` is called once with the reason."""

    def __init__(
        self,
        config: supervision.FrontEndConfig,
        on_message: Callable[[FrontEndProcess, Any], None],
        on_end: Callable[[FrontEndProcess], None],
    ) -> None:
        self.number = config.number
        self.since = time.monotonic()
        self._on_message, self._on_end = on_message, on_end
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[None] = loop.create_future()
        self.drained: asyncio.Future[bool] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.ready = False
        self.pages: list[supervision.MetricPage] = []  # as last reported
        self._killed_because = ""
        self._reports: dict[int, asyncio.Future[None]] = {}
        self._heartbeat = Heartbeat(self._serves, self._ask, self._hung)
        child = ChildProcess(MODULE)
        self._process = child.process
        self._connection = Connection(
            child.socket, f"front end {self.number}", self._receive, self._closed, broken=self._break
        )
        self.send(config)
        self._heartbeat.start(self._connection)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def serves(self) -> bool:
        return self._serves() and not self.ended.done()

    def _serves(self) -> bool:
        return self.started.done() and not self.started.cancelled() and self.started.exception() is None

    def send(self, *sent: Any) -> None:
        self._connection.write(sent)

    async def report(self, key: int) -> None:
        """Wait until `pages` are as of now, or the front end has ended."""
        report = self._reports[key] = asyncio.get_running_loop().create_future()
        self.send(supervision.GetReport(key))
        try:
            await asyncio.wait((report, self.ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._reports.pop(key, None)

    def kill(self, reason: str) -> None:
        """End the process at once, and treat its connection as closed."""
        if self.ended.done():
            return
        self._killed_because = reason
        self._process.kill()
        self._connection.close()
        self._closed()

    async def exit_reason(self) -> str:
        try:
            code = await asyncio.to_thread(self._process.wait, _EXIT_S)
        except TimeoutExpired:
            self._process.kill()
            code = await asyncio.to_thread(self._process.wait)
        return self._killed_because or exit_text(code)

    # --- messages and ends ----------------------------------------------------------------------------

    def _ask(self) -> None:
        self.send(messages.Heartbeat())

    def _hung(self, seconds: float) -> None:
        self.kill(f"it did not answer for {seconds:g} s")

    def _break(self) -> None:
        self.kill("it sent what cannot be read")

    def _receive(self, message: Any) -> None:
        match message:
            case messages.Heartbeat():
                pass  # that something came is all that counts
            case supervision.FrontEndStarted():
                if not self.started.done():
                    self.started.set_result(None)
            case supervision.FrontEndFailed(reason):
                self._killed_because = reason
                if not self.started.done():
                    self.started.set_exception(LoadError(reason))
            case supervision.Drained(clean):
                if not self.drained.done():
                    self.drained.set_result(clean)
            case supervision.Report(key, found):
                self.pages = found
                if (report := self._reports.get(key)) is not None and not report.done():
                    report.set_result(None)
                return
            case supervision.FrontEndState(ready):
                self.ready = ready
        self._on_message(self, message)

    def _closed(self) -> None:
        self._heartbeat.stop()
        self._serves()  # a failed start that nobody waits for is no error of asyncio's
        if not self.drained.done():
            self.drained.set_result(True)  # it holds nothing any more
        self.ended.set_result(None)
        self._on_end(self)
