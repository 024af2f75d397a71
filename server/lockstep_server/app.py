"""Wires all parts of the server: the only file that knows every one of them.

settings -> engine transport -> requests in flight and model registry -> gRPC servicers -> gRPC server
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs

from . import messages, sources
from .api import access, peers
from .api.health import HealthPublisher
from .api.server import Server
from .errors import LoadError, unavailable
from .frontend.flush_control import FlushController
from .frontend.gauges import GaugeReader
from .frontend.loop_watch import LoopWatch
from .frontend.pulls import Pulls
from .frontend.recorder import Recorder
from .frontend.registry import ModelRegistry
from .frontend.request_log import RequestLog
from .frontend.requests import InFlightRequests
from .frontend.sequence_states import SequenceStates
from .frontend.shared_usage import SharedUsage
from .frontend.tokenization import Tokenizers
from .frontend.tracing import begin
from .frontend.usage import CallerUsage
from .ipc.engine_connection import EngineConnection
from .ipc.engine_process import EngineProcess
from .ipc.in_process import InProcess
from .metrics.endpoints import Condition
from .metrics.families import Metrics
from .status_port import StatusPort

if TYPE_CHECKING:
    from collections.abc import Callable

    from .frontend.registry import AskOthers
    from .frontend.spans import Spans
    from .ipc import Transport
    from .ipc.child_process import ChildProcess
    from .settings import Settings
    from .supervision import ServerState, Spent, Usage

log = logging.getLogger(__name__)

_SPAN_EXPORT_S = 2.0
"""Time limit for exporting the remaining spans at shutdown, in seconds."""


@dataclass(frozen=True)
class Place:
    """One of several front ends: its number, and where it reports to."""

    number: int
    engine: str  # path of the engine's socket
    server: str  # names the server among its peers
    ready: Callable[[bool], None]  # whether enough models are ready here
    send: Callable[[Usage], None]
    drained: Callable[[bool], None]  # whether all requests ended in time
    ask_others: AskOthers


@dataclass(frozen=True)
class FrontEndTotals:
    """Implements `shared_usage.Totals`: where a front end counts what others hold."""

    registry: ModelRegistry
    usage: CallerUsage

    def add_held(self, caller: str, size: int) -> None:
        self.usage.add_held(caller, size)

    def add_queued(self, model: str, version: int, caller: str, requests: int, seconds: float) -> None:
        if (served := self.registry.get(model, version)) is not None:
            served.admission.add_queued(caller, requests, seconds, time.monotonic())

    def add_served(self, model: str, version: int, seconds: float) -> None:
        if (served := self.registry.get(model, version)) is not None:
            served.admission.add_served(seconds, time.monotonic())

    def add_spent(self, spent: Spent) -> None:
        self.usage.add_spent(spent)


class App:
    """A server, or one of its front ends, built from its settings. `stop` shuts the parts down in the reverse
    order of `start`."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics | None = None,
        spans: Spans | None = None,
        place: Place | None = None,
        engine: ChildProcess | None = None,
    ) -> None:
        """
        Args:
            place: of this front end, if it is one of several. None: it owns the engine.
            engine: the engine process, if it has been started.
        """
        self.settings, self._place = settings, place
        self._spans = spans or _spans(settings)
        self.metrics = metrics or Metrics(enabled=settings.metrics)
        self._certificates = access.certificate_files(settings)
        self.guard = access.guard(settings, self.metrics)
        self.transport = self._make_transport(settings, engine)
        self._health = HealthPublisher()
        request_log = RequestLog(texts=settings.log_texts)
        self._tokenizers = Tokenizers(settings.tokenizer_workers)
        first_key = 1 + (place.number * messages.FRONT_END_KEYS if place is not None else 0)
        self.registry = ModelRegistry(
            self.metrics,
            self._models_changed,
            request_log,
            self._tokenizers,
            settings.require_models,
            settings.reload_grace_s,
            first_key,
        )
        self.recorder = Recorder(self.transport.send, settings.recorded_runs, first_key)
        usage = CallerUsage(settings.max_inflight_mb << 20, self.metrics)
        self.requests = InFlightRequests(
            self.transport.send,
            self.registry,
            request_log,
            self.metrics.loop_lag.observe,
            usage=usage,
            priorities=settings.priorities,
            ended=self.recorder.requests,
            number=place.number if place is not None else 0,
        )
        self.sequence_states = SequenceStates(self.transport.send, first_key)
        self.mover = peers.mover(
            settings,
            self.sequence_states,
            self.registry,
            self.metrics,
            self.requests,
            self._certificates,
            place.server if place is not None else secrets.token_hex(8),
            self.transport.send if place is not None else None,
        )
        if self.mover is not None:
            self.requests.pulls = pulls = Pulls(self.mover)
            pulls.send, pulls.fail = self.requests.send_again, self.requests.fail
        self.shared_usage = self._share(usage, place) if place is not None else None
        self._flush_control = FlushController(self.transport.send, settings.max_flush_ms / 1000)
        self._server = Server(
            settings,
            self.metrics,
            self.registry,
            self.requests,
            self.transport.send,
            self._flush_control,
            self._health,
            self._spans.begin if self._spans is not None else begin,
            self.guard,
            self._certificates,
            self.recorder,
            self.sequence_states,
            self.mover,
            shares_port=place is not None,
        )
        self._status: StatusPort | None = None
        if place is None:
            self._status = StatusPort(
                settings, self.metrics, self.guard, self._certificates, self.transport, self._condition
            )
        self._guarding: asyncio.Task[None] | None = None
        self._loop_watch: LoopWatch | None = None
        self._started = self._draining = False
        self.port = 0
        self.metrics_port = 0

    def _share(self, usage: CallerUsage, place: Place) -> SharedUsage:
        """Count for, and with, the other front ends."""
        shared = SharedUsage(place.number, place.send, FrontEndTotals(self.registry, usage))
        self.registry.others_ready = False
        self.registry.shared_usage = usage.shared_usage = shared
        self.registry.ask, self.registry.ask_others = self.transport.send, place.ask_others
        return shared

    def _make_transport(self, settings: Settings, engine: ChildProcess | None) -> Transport:
        if self._place is not None:
            return EngineConnection(
                self._place.engine,
                self._place.number,
                self._engine_known,
                self._engine_lost,
                self._engine_restarted,
                lambda within_s: self._place.drained(within_s > 0) if self._place is not None else None,
            )
        config = engine_config(settings)
        if settings.engine == "thread":
            return InProcess.of(config)
        return EngineProcess(
            config,
            self._engine_lost,
            self._engine_restarting,
            self.metrics.engine_hangs.inc,
            log=(settings.log_level, settings.log_format),
            first=engine,
            on_restart=self._engine_restarted,
            restart_config=lambda config: restart_config(config, self.registry),
        )

    async def start(self) -> None:
        """Bind the ports, then start the engine. Returns once the model repository has been listed.

        The ports come first so that a port in use is reported before any model is loaded. One of several
        front ends listens last, so that its first caller finds the models; the supervisor holds its port.

        Raises:
            LoadError: a port is in use, the repository does not exist, or the requested device is missing.
        """
        await self._health.start(self.registry)
        if self._status is not None:
            self.port = await self._server.start()
            self.metrics_port = self._status.start()
        self._guarding = asyncio.ensure_future(self.guard.watch())
        self._loop_watch = LoopWatch(self.metrics.loop_delay.observe)
        engine = await self.transport.start(self._deliver)
        self._engine_known(engine)
        self.metrics.flush_interval.read = lambda: [((), self._flush_control.interval_s)]
        if self._status is not None:
            self._status.watch_engine(engine, self.registry, lambda: self._draining)
        else:
            GaugeReader(self.metrics, self.registry, all_=False)
        await self.registry.mark_listed()
        if self._status is None:
            self.port = await self._server.start()
        self._started = True

    def _engine_known(self, engine: messages.EngineInfo) -> None:
        self.registry.device = engine.device

    @property
    def work(self) -> str:
        """What a stop has to wait for, for the log."""
        return f"requests in flight: {len(self.requests)}"

    async def _models_changed(self, registry: ModelRegistry) -> None:
        await self._health.update(registry)
        if self.mover is not None:
            self.mover.models_changed()
        if self._place is not None:
            self._place.ready(registry.ready_here())

    async def set_server_state(self, state: ServerState) -> None:
        """Take over what the supervisor says of all front ends and of the engine."""
        self.registry.others_ready = state.ready
        await self._health.set_live(alive=state.alive)
        await self._health.update(self.registry)

    async def stop(self) -> None:
        """Report NOT_SERVING, go on for `shutdown_delay_s`, drain for at most `drain_s`, then stop."""
        settings = self.settings
        self._draining = True
        await self._health.drain()
        if self._started:
            await asyncio.sleep(settings.shutdown_delay_s)
        drained = await self._drain(settings.drain_s)
        if not drained:
            log.warning(
                "drain timed out after %g s: %d requests in flight", settings.drain_s, len(self.requests)
            )
        await self.transport.stop(within_s=1.0 if drained else 0.0)
        await self._server.stop()
        if self.mover is not None:
            await self.mover.peers.close()
        if self._guarding is not None:
            self._guarding.cancel()
        self._tokenizers.close()
        if self._loop_watch is not None:
            self._loop_watch.stop()
        if self._status is not None:
            self._status.stop()
        if self._spans is not None:
            await self._spans.stop(_SPAN_EXPORT_S)

    async def _drain(self, within_s: float) -> bool:
        """Finish what is in flight, and move live sequences to peers. False if something is left."""
        draining = asyncio.ensure_future(self.requests.drain(within_s))
        if self.mover is not None and self._started:
            moving = asyncio.ensure_future(self.mover.drain(within_s, self.requests.movable_texts))
            await self.mover.sequences_moved.wait()
            drained = await draining
            moving.cancel()
            return drained
        return await draining

    def _deliver(self, update: messages.EngineUpdate) -> None:
        """Process an update of the engine."""
        match update:
            case messages.Events():
                self.requests.deliver(update)
            case messages.ModelStuck():
                self.metrics.engine_hangs.inc()
            case messages.EngineStats():
                if self._status is not None:
                    self._status.engine_stats = update
            case messages.RunRecords():
                self.recorder.answered(update)
            case messages.SequenceAnswer() | messages.SequenceList():
                self.sequence_states.answered(update)
            case messages.SequenceMoved() if self.mover is not None:
                self.mover.left(update)
            case _:
                self.registry.apply(update)
                if self._place is not None and isinstance(update, messages.LoadDone):
                    self.transport.send(messages.LoadSeen(update.key))

    def _engine_lost(self, reason: str) -> None:
        """Fail all requests in flight after the engine process died; the transport restarts it."""
        if self._place is None:  # the supervisor counts it otherwise
            self.metrics.engine_restarts.inc()
        self.registry.engine_lost()
        error = unavailable(f"{reason}; restarting it")
        self.requests.fail_all(error)
        self.recorder.engine_lost(error)
        self.sequence_states.engine_lost(error)
        if self.mover is not None:
            self.mover.engine_lost()

    async def _engine_restarted(self) -> None:
        """The new engine process has named its models."""
        await self.registry.mark_listed()

    def _engine_restarting(self) -> None:
        """An attempt to restart the engine process has failed or succeeded."""
        self._live_report = asyncio.ensure_future(self._health.set_live(alive=self.transport.recovers))

    def _condition(self) -> Condition:
        return Condition.DRAINING if self._draining else Condition.of(ready=self.registry.ready())


def _spans(settings: Settings) -> Spans | None:
    """
    Raises:
        LoadError: tracing is on, but OpenTelemetry is not installed.
    """
    if settings.traces == "off":
        return None
    try:
        from .frontend import spans

        return spans.Spans(spans.otlp(settings.traces_endpoint), settings.traces_ratio)
    except ImportError as error:
        raise LoadError(
            f"--traces otlp needs {error.name}: install the extra with"
            " pip install 'lockstep-inference[traces]', or set --traces off"
        ) from error


def engine_config(settings: Settings) -> messages.EngineConfig:
    first, *more = sources.split(settings.models) or [settings.models]
    return messages.EngineConfig(
        models=first,
        more_models=tuple(more),
        device=settings.device,
        device_id=settings.device_id,
        gpu_memory_mb=settings.gpu_memory_mb,
        state_values=settings.state_values,
        cache=str(Path(settings.cache).expanduser()) if settings.cache else "",
        batching=settings.batching,
        max_run_s=settings.max_run_ms / 1000,
        stalled_s=settings.max_stall_s,
        reload_grace_s=settings.reload_grace_s,
        run_limit_s=settings.max_run_s,
        load_limit_s=settings.max_load_s,
        verify_share=settings.verify_share,
        recorded_runs=settings.recorded_runs,
        niceness=settings.engine_nice if settings.engine == "process" and sys.platform == "linux" else 0,
        selected=tuple(name.strip() for name in settings.only.split(",") if name.strip()),
    )


def restart_config(config: messages.EngineConfig, registry: ModelRegistry) -> messages.EngineConfig:
    """The configuration of an engine process after another: what was unloaded or loaded stays so."""
    selected = {*config.selected, *registry.loads.loaded} if config.selected else ()
    unloaded = tuple(sorted(registry.loads.unloaded))
    return structs.replace(config, selected=tuple(sorted(selected)), unloaded=unloaded, restart=True)
