"""Wires all parts of the server: the only file that knows every one of them.

settings -> engine transport -> requests in flight and model registry -> gRPC servicers -> gRPC server
"""

from __future__ import annotations

import asyncio
import logging
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs

from . import __version__, messages
from .api import access
from .api.auth import Refusal
from .api.health import HealthPublisher
from .api.server import Server
from .errors import LoadError, unavailable
from .frontend.flush_control import FlushController
from .frontend.gauges import GaugeReader
from .frontend.loop_watch import LoopWatch
from .frontend.recorder import Recorder
from .frontend.registry import ModelRegistry
from .frontend.request_log import RequestLog
from .frontend.requests import InFlightRequests
from .frontend.tokenization import Tokenizers
from .frontend.tracing import begin
from .frontend.usage import CallerUsage
from .ipc.engine_process import EngineProcess
from .ipc.in_process import InProcess
from .metrics import gpus
from .metrics.endpoints import HttpEndpoints
from .metrics.families import Metrics
from .settings import host_and_port

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .frontend.spans import Spans
    from .ipc import Transport
    from .settings import Settings

log = logging.getLogger(__name__)

_SPAN_EXPORT_S = 2.0
"""Time limit for exporting the remaining spans at shutdown, in seconds."""


class App:
    """A server built from its settings. `stop` shuts the parts down in the reverse order of `start`."""

    def __init__(
        self, settings: Settings, metrics: Metrics | None = None, spans: Spans | None = None
    ) -> None:
        self.settings = settings
        self._spans = spans or _spans(settings)
        self.metrics = metrics or Metrics(enabled=settings.metrics)
        self._certificates = access.certificate_files(settings)
        self.guard = access.guard(settings, self.metrics)
        self.transport = self._make_transport(settings)
        self._health = HealthPublisher()
        request_log = RequestLog(texts=settings.log_texts)
        self._tokenizers = Tokenizers(settings.tokenizer_workers)
        self.registry = ModelRegistry(
            self.metrics,
            self._health.update,
            request_log,
            self._tokenizers,
            settings.require_models,
            settings.reload_grace_s,
        )
        self.recorder = Recorder(self.transport.send, settings.recorded_runs)
        self.requests = InFlightRequests(
            self.transport.send,
            self.registry,
            request_log,
            self.metrics.loop_lag.observe,
            usage=CallerUsage(settings.max_inflight_mb << 20, self.metrics),
            priorities=settings.priorities,
            ended=self.recorder.requests,
        )
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
        )
        self._endpoints: HttpEndpoints | None = None
        self._guarding: asyncio.Task[None] | None = None
        self._loop_watch: LoopWatch | None = None
        self._engine_stats = messages.EngineStats([])
        self.port = 0
        self.metrics_port = 0

    def _make_transport(self, settings: Settings) -> Transport:
        config = _engine_config(settings)
        if settings.engine == "thread":
            return InProcess.of(config)
        return EngineProcess(
            config,
            self._engine_lost,
            self._engine_restarting,
            self.metrics.engine_hangs.inc,
            log=(settings.log_level, settings.log_format),
            on_restart=self._engine_restarted,
            restart_config=self._restart_config,
        )

    async def start(self) -> None:
        """Bind the ports, then start the engine. Returns once the model repository has been listed.

        The ports come first so that a port in use is reported before any model is loaded.

        Raises:
            LoadError: a port is in use, the repository does not exist, or the requested device is missing.
        """
        await self._health.start(self.registry)
        self.port = await self._server.start()
        self._guarding = asyncio.ensure_future(self.guard.watch())
        self._loop_watch = LoopWatch(self.metrics.loop_delay.observe)
        self._endpoints = self._start_http()
        self.metrics_port = self._endpoints.port
        engine = await self.transport.start(self._deliver)
        self.registry.device = engine.device
        self._register_gauges(engine)
        await self.registry.mark_listed()

    def _start_http(self) -> HttpEndpoints:
        settings, loop = self.settings, asyncio.get_running_loop()

        def request_engine_stats() -> None:
            """The reply arrives after this scrape and is shown by the next one."""
            loop.call_soon_threadsafe(self.transport.send, messages.GetEngineStats())

        before_scrape = request_engine_stats if settings.engine == "process" else lambda: None
        registry = self.metrics.registry if settings.metrics else None
        try:
            return HttpEndpoints(
                settings.http_host,
                settings.metrics_port,
                registry,
                self._healthy,
                before_scrape,
                certificates=self._certificates if settings.has_metrics_tls else None,
                refusal=lambda *shown: self._scrape_refusal(loop, *shown),
            )
        except OSError as error:
            raise _port_in_use(settings, error) from error

    def _scrape_refusal(
        self, loop: asyncio.AbstractEventLoop, authorization: str, certificate: Sequence[str]
    ) -> str:
        """Why /metrics may not be read, or "". Called on the thread of the scrape."""
        try:
            self.guard.check_scrape(authorization, certificate)
        except Refusal as refusal:
            record = self.guard.audit.refused
            loop.call_soon_threadsafe(record, refusal.caller, "/metrics", refusal.reason)
            return refusal.message
        return ""

    def _register_gauges(self, engine: messages.EngineInfo) -> None:
        """Set the callbacks of the metrics that are read at each scrape."""
        metrics = self.metrics
        GaugeReader(metrics, self.registry)
        metrics.build.read = lambda: [((__version__, engine.runtime), 1.0)]
        metrics.leases.read = lambda: [((engine.device,), float(engine.leases))]
        metrics.draining.read = lambda: [((), float(self.requests.draining))]
        metrics.flush_interval.read = lambda: [((), self._flush_control.interval_s)]
        metrics.engine_up.read = lambda: [((), float(self.transport.up))]
        for key, family in metrics.engine_gc.items():
            family.read = partial(self._engine_gc, key)
        if self.settings.engine == "process":
            metrics.watch_engine(lambda: self.transport.pid)
        if self.settings.device != "cpu" and (found := gpus.open_gpus()) is not None:
            metrics.registry.register(found)

    def _engine_gc(self, key: str) -> list[tuple[tuple[str, ...], float]]:
        """One garbage collector count of the engine process, by generation."""
        generations = enumerate(self._engine_stats.garbage)
        return [((str(generation),), float(counts[key])) for generation, counts in generations]

    async def stop(self) -> None:
        """Drain for at most `drain_s` seconds, then stop."""
        settings = self.settings
        await self._health.drain()
        drained = await self.requests.drain(settings.drain_s)
        if not drained:
            log.warning(
                "drain timed out after %g s: %d requests in flight", settings.drain_s, len(self.requests)
            )
        await self.transport.stop(within_s=1.0 if drained else 0.0)
        await self._server.stop()
        if self._guarding is not None:
            self._guarding.cancel()
        self._tokenizers.close()
        if self._loop_watch is not None:
            self._loop_watch.stop()
        if self._endpoints is not None:
            self._endpoints.stop()
        if self._spans is not None:
            await self._spans.stop(_SPAN_EXPORT_S)

    def _deliver(self, update: messages.EngineUpdate) -> None:
        """Process an update of the engine. An error concerns this update only."""
        try:
            self._process(update)
        except Exception:
            log.exception("processing a %s of the engine failed", type(update).__name__)

    def _process(self, update: messages.EngineUpdate) -> None:
        match update:
            case messages.Events():
                self.requests.deliver(update)
            case messages.ModelUpdate():
                self.registry.update(update)
            case messages.Costs():
                self.registry.set_costs(update)
            case messages.Verified():
                self.registry.verified(update)
            case messages.BatchingOff():
                self.registry.batching_off(update)
            case messages.ModelPaused():
                self.registry.pause(update)
            case messages.ModelStuck():
                self.metrics.engine_hangs.inc()
            case messages.LoadDone():
                self.registry.loads.done(update)
            case messages.EngineStats():
                self._engine_stats = update
            case messages.RunRecords():
                self.recorder.answered(update)

    def _engine_lost(self, reason: str) -> None:
        """Fail all requests in flight after the engine process died; the transport restarts it."""
        self.metrics.engine_restarts.inc()
        self.registry.engine_lost()
        error = unavailable(f"{reason}; restarting it")
        self.requests.fail_all(error)
        self.recorder.engine_lost(error)

    async def _engine_restarted(self) -> None:
        """The new engine process has named its models."""
        await self.registry.mark_listed()

    def _engine_restarting(self) -> None:
        """An attempt to restart the engine process has failed or succeeded."""
        self._live_report = asyncio.ensure_future(self._health.set_live(alive=self.transport.recovers))

    def _restart_config(self, config: messages.EngineConfig) -> messages.EngineConfig:
        """The configuration of an engine process after another: what was unloaded or loaded stays so."""
        selected = {*config.selected, *self.registry.loads.loaded} if config.selected else ()
        unloaded = tuple(sorted(self.registry.loads.unloaded))
        return structs.replace(config, selected=tuple(sorted(selected)), unloaded=unloaded, restart=True)

    def _healthy(self) -> bool:
        return self.registry.ready() and not self.requests.draining


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
            f"--traces otlp needs {error.name}: install the extra with pip install '.[traces]'"
            " in a checkout of Lockstep, or set --traces off"
        ) from error


def _engine_config(settings: Settings) -> messages.EngineConfig:
    return messages.EngineConfig(
        models=settings.models,
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


def _port_in_use(settings: Settings, error: OSError) -> LoadError:
    return LoadError(
        f"--metrics-port {settings.metrics_port}: cannot listen on"
        f" {host_and_port(settings.http_host, settings.metrics_port)} ({error.strerror});"
        " choose a free port, and as --host or --metrics-host an address of this machine"
    )
