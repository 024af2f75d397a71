"""Several gRPC front-end processes on one port before one engine process.

The supervisor owns the engine process, the HTTP port and the front ends, and serves no call itself. It
restarts each process that ends. Each front end has a connection to the engine and one to the supervisor,
which passes on what they hold (`frontend/shared_usage.py`), adds up their metrics, and stops them together
(docs/decisions/0033).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import secrets
import shutil
import socket
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from . import messages, supervision
from .api import access
from .app import engine_config, restart_config
from .errors import LoadError
from .frontend.registry import ModelRegistry
from .ipc.engine_process import EngineProcess
from .ipc.front_end_process import FrontEndProcess
from .metrics import pages
from .metrics.endpoints import Condition
from .metrics.families import Metrics
from .settings import host_and_port
from .status_port import StatusPort

if TYPE_CHECKING:
    from typing import Any

    from .settings import Settings

log = logging.getLogger(__name__)

_SOON_S, _MAX_PAUSE_S = 10.0, 30.0
"""A front end that ends sooner than this after its start is started again after a pause, of this at most."""

_REPORT_S = 5.0
"""Within this time the front ends and the engine must answer a scrape."""

_DRAIN_GRACE_S, _EXIT_S = 2.0, 8.0
"""How long front ends may take beyond the drain timeout, and to close their connections after that."""


class Supervisor:
    """A server of several front ends, built from its settings. `stop` shuts the parts down in the reverse
    order of `start`."""

    def __init__(self, settings: Settings) -> None:
        """
        Raises:
            LoadError: a setting does not go with several front ends.
        """
        _check(settings)
        self.settings = settings
        self.metrics = Metrics(enabled=settings.metrics)
        self._certificates = access.certificate_files(settings)
        self.guard = access.guard(settings, self.metrics)
        self.registry = ModelRegistry(
            self.metrics, self._models_changed, require_ready=settings.require_models
        )
        self._name = secrets.token_hex(8)
        self._folder = tempfile.mkdtemp(prefix="lockstep-")  # which only this user can enter
        self._listener = self._listen()
        self.transport = EngineProcess(
            engine_config(settings),
            self._engine_lost,
            self._state_changed,
            self.metrics.engine_hangs.inc,
            log=(settings.log_level, settings.log_format),
            on_restart=self.registry.mark_listed,
            restart_config=lambda config: restart_config(config, self.registry),
            listener=self._listener,
        )
        page = CollectorRegistry()
        page.register(pages.PageCollector(self._page))
        self._status = StatusPort(
            settings, self.metrics, self.guard, self._certificates, self.transport, self._condition, page
        )
        self._numbers, self._reports = itertools.count(1), itertools.count(1)
        self.front_ends: dict[int, FrontEndProcess] = {}
        self._restarts: set[asyncio.Task[None]] = set()
        self._ended: list[supervision.MetricPage] = []  # what those that have ended had counted
        self._reserved: list[socket.socket] = []
        self._guarding: asyncio.Task[None] | None = None
        self._engine_asked: asyncio.Future[None] | None = None
        self._sent: supervision.ServerState | None = None
        self._complete = self.draining = False
        self._pause_s = 0.0
        self.port = self.metrics_port = 0

    @property
    def _engine_path(self) -> str:
        return str(Path(self._folder) / "engine")

    def _listen(self) -> socket.socket:
        """
        Raises:
            LoadError: there can be no socket in the folder for temporary files.
        """
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(self._engine_path)
        except OSError as error:  # the path is too long, for example
            listener.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            raise LoadError(
                f"--frontends {self.settings.frontends}: cannot make the socket {self._engine_path}"
                f" ({error}); set TMPDIR to another folder"
            ) from None
        listener.listen(64)
        return listener

    @property
    def work(self) -> str:
        """What a stop has to wait for, for the log."""
        return f"front ends: {len(self.front_ends)}"

    async def start(self) -> None:
        """Reserve the ports, then start the engine and the front ends. Returns once all front ends listen.

        Raises:
            LoadError: as `App.start`; or a front end cannot start.
        """
        self._loop = asyncio.get_running_loop()
        self._reserved, self.port = reserve(self.settings)
        self.metrics_port = self._status.start()
        self._guarding = asyncio.ensure_future(self.guard.watch())
        first = [self._spawn() for _ in range(self.settings.frontends)]
        engine = await self.transport.start(self._deliver)
        self.registry.device = engine.device
        self._status.watch_engine(engine, self.registry, lambda: self.draining)
        await self.registry.mark_listed()
        try:
            for front_end in first:
                await asyncio.wait((front_end.started, front_end.ended), return_when=asyncio.FIRST_COMPLETED)
                if not front_end.started.done():
                    raise LoadError(f"a front end ended during its start ({await front_end.exit_reason()})")
                front_end.started.result()
        except LoadError:
            for front_end in first:
                front_end.kill("another one cannot start")
                await front_end.exit_reason()
            raise
        self._complete = True
        self._state_changed()

    # --- front ends -----------------------------------------------------------------------------------

    def _spawn(self) -> FrontEndProcess:
        config = supervision.FrontEndConfig(
            number=next(self._numbers),
            settings={**asdict(self.settings), "port": self.port},
            engine=self._engine_path,
            server=self._name,
        )
        front_end = FrontEndProcess(config, self._receive, self._front_end_ended)
        self.front_ends[front_end.number] = front_end
        return front_end

    def _receive(self, sender: FrontEndProcess, message: Any) -> None:
        others = [one for one in self.front_ends.values() if one is not sender]
        match message:
            case supervision.Usage():
                for other in others:
                    other.send(message)
            case supervision.FrontEndStarted():
                self._sent = None  # it knows nothing yet
                self._state_changed()
                for other in others:
                    other.send(supervision.FrontEndCame())
            case supervision.FrontEndState():
                self._state_changed()
            case supervision.GetStatistics():
                asked = [one for one in others if one.serves]
                sender.send(supervision.StatisticsAsked(message.key, len(asked)))
                for other in asked:
                    other.send(message)
            case supervision.Statistics() if (asker := self.front_ends.get(message.asker)) is not None:
                asker.send(message)

    def _front_end_ended(self, front_end: FrontEndProcess) -> None:
        """Keep what a front end has counted, and start another one in its place."""
        del self.front_ends[front_end.number]
        self._ended = pages.merge((self._ended, pages.counted(front_end.pages)))
        for other in self.front_ends.values():
            other.send(supervision.FrontEndGone(front_end.number))
        if self._complete and not self.draining:
            self._state_changed()
            restart = asyncio.ensure_future(self._restart(front_end))
            self._restarts.add(restart)
            restart.add_done_callback(self._restarts.discard)

    async def _restart(self, ended: FrontEndProcess) -> None:
        """Start a front end in place of one that has ended, until a start succeeds."""
        log.error("front end %d ended (%s); starting another", ended.number, await ended.exit_reason())
        self.metrics.front_end_restarts.inc()
        pause_s = 0.0
        if time.monotonic() - ended.since < _SOON_S:
            self._pause_s = pause_s = min(max(self._pause_s * 2, 1.0), _MAX_PAUSE_S)
        else:
            self._pause_s = 0.0
        await asyncio.sleep(pause_s)
        while not self.draining:
            try:
                self._spawn()
            except OSError as error:  # no descriptor, no memory, no process: there may be one later
                log.error("starting a front end failed: %s", error)
                await asyncio.sleep(_MAX_PAUSE_S)
            else:
                return

    # --- the state of the whole -----------------------------------------------------------------------

    async def _models_changed(self, _: ModelRegistry) -> None:
        self._state_changed()

    def _state_changed(self) -> None:
        """Tell the front ends, if their common state has changed. A front end that is started again is not
        waited for: it listens once it is ready."""
        serving = [one for one in self.front_ends.values() if one.serves]
        ready = self._complete and bool(serving) and all(one.ready for one in serving)
        state = supervision.ServerState(ready and self.registry.ready_here(), self.transport.recovers)
        if state != self._sent:
            self._sent = state
            for front_end in self.front_ends.values():
                front_end.send(state)

    def _condition(self) -> Condition:
        if self.draining:
            return Condition.DRAINING
        return Condition.of(ready=self._sent is not None and self._sent.ready)

    # --- the engine -----------------------------------------------------------------------------------

    def _deliver(self, update: messages.EngineUpdate) -> None:
        match update:
            case messages.ModelUpdate():
                self.registry.apply(replace(update, tokenizer=b""))  # no text is read here
            case messages.ModelStuck():
                self.metrics.engine_hangs.inc()
            case messages.EngineStats():
                self._status.engine_stats = update
                for name, version, counts, state_bytes in update.sequences:
                    if (served := self.registry.get(name, version)) is not None:
                        served.sequence_counts, served.state_bytes = counts, state_bytes
                if self._engine_asked is not None and not self._engine_asked.done():
                    self._engine_asked.set_result(None)
            case _:
                self.registry.apply(update)

    def _engine_lost(self, reason: str) -> None:  # noqa: ARG002 - the front ends see it themselves
        self.metrics.engine_restarts.inc()
        self.registry.engine_lost()

    # --- metrics --------------------------------------------------------------------------------------

    def _page(self) -> list[supervision.MetricPage]:
        """The metrics of all processes. Called on the thread of a scrape."""
        asyncio.run_coroutine_threadsafe(self._collect(), self._loop).result()
        own = pages.take(self.metrics.registry)
        running = [one.pages for one in list(self.front_ends.values())]
        return pages.merge((own, self._ended, *running))

    async def _collect(self) -> None:
        """Wait until all front ends and the engine have reported. One that does not shows its last report."""
        key = next(self._reports)
        reports = [asyncio.ensure_future(one.report(key)) for one in self.front_ends.values() if one.serves]
        self._engine_asked = asyncio.get_running_loop().create_future()
        self.transport.send(messages.GetEngineStats())
        if not self.transport.up:
            self._engine_asked.set_result(None)
        _, late = await asyncio.wait((*reports, self._engine_asked), timeout=_REPORT_S)
        for one in late:
            one.cancel()

    # --- stop -----------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Let all front ends drain as `App.stop` does, then stop the engine, then them."""
        self.draining = True
        for restart in list(self._restarts):
            restart.cancel()
        front_ends = list(self.front_ends.values())
        for front_end in front_ends:
            front_end.send(supervision.Drain())
        clean = await self._drained(front_ends)
        await self.transport.stop(within_s=1.0 if clean else 0.0)
        if front_ends:
            await asyncio.wait([one.ended for one in front_ends], timeout=_EXIT_S)
        for front_end in front_ends:
            front_end.kill("it did not stop in time")
            await front_end.exit_reason()
        if self._guarding is not None:
            self._guarding.cancel()
        self._status.stop()
        for reserved in (*self._reserved, self._listener):
            reserved.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _drained(self, front_ends: list[FrontEndProcess]) -> bool:
        """Whether all requests of all front ends ended in time."""
        if not front_ends:
            return True
        drains = [
            asyncio.wait((one.drained, one.ended), return_when=asyncio.FIRST_COMPLETED) for one in front_ends
        ]
        with suppress(TimeoutError):
            within_s = self.settings.shutdown_delay_s + self.settings.drain_s + _DRAIN_GRACE_S
            await asyncio.wait_for(asyncio.gather(*drains), within_s)
            return all(not one.drained.done() or one.drained.result() for one in front_ends)
        return False


def _check(settings: Settings) -> None:
    """
    Raises:
        LoadError: a setting does not go with several front ends.
    """
    if settings.engine != "process":
        raise LoadError(f"--frontends {settings.frontends} needs --engine process; set it, or --frontends 1")
    if not hasattr(socket, "SO_REUSEPORT") or os.name != "posix":
        raise LoadError(f"--frontends {settings.frontends}: this system has no SO_REUSEPORT; use 1")
    if settings.shared_memory_keys:
        raise LoadError(
            "--shared-memory-keys needs --frontends 1: a region is known to one front end only, and the next"
            " connection of a caller may reach another"
        )


def reserve(settings: Settings) -> tuple[list[socket.socket], int]:
    """Bind the gRPC port, so that no other server takes it, without listening on it: connections go to the
    front ends, which bind it too. Returns the sockets, and the port.

    Raises:
        LoadError: another server has the port.
    """
    host, port = settings.grpc_host, settings.port
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            target = (address[0], port, *address[2:])
            for shared in (0, 1):  # first for itself: a server that shares the port must not be joined
                bound = socket.socket(family, socket.SOCK_STREAM)
                if family == socket.AF_INET6:
                    bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(len(found) > 1))
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
                try:
                    bound.bind(target)
                except BaseException:
                    bound.close()
                    raise
                if shared:
                    sockets.append(bound)
                    port = port or bound.getsockname()[1]
                else:
                    bound.close()
    except OSError as error:
        for one in sockets:
            one.close()
        raise LoadError(
            f"--port {settings.port}: cannot listen on {host_and_port(host, settings.port)}"
            f" ({error.strerror}); choose a free port, and as --host an address of this machine"
        ) from None
    return sockets, port
