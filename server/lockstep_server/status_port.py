"""The HTTP port of the server, with metrics and health, and the gauges that are read at a scrape."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from . import __version__, messages
from .api.auth import Refusal
from .errors import LoadError
from .frontend.gauges import GaugeReader
from .metrics import gpus
from .metrics.endpoints import HttpEndpoints
from .settings import host_and_port

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prometheus_client import CollectorRegistry

    from .api.auth import Guard
    from .certificates import CertificateFiles
    from .frontend.registry import ModelRegistry
    from .ipc import Transport
    from .metrics.endpoints import Condition
    from .metrics.families import Metrics
    from .settings import Settings


class StatusPort:
    """The HTTP endpoints of the process that owns the engine.

    Args:
        condition: as `HttpEndpoints` has it.
        page: what `/metrics` shows, if that is more than the metrics of this process. It asks the engine.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        guard: Guard,
        certificates: CertificateFiles | None,
        transport: Transport,
        condition: Callable[[], Condition],
        page: CollectorRegistry | None = None,
    ) -> None:
        self._settings, self._metrics, self._guard = settings, metrics, guard
        self._certificates, self._transport, self._condition = certificates, transport, condition
        self._page, self._asks = page or metrics.registry, page is not None
        self._endpoints: HttpEndpoints | None = None
        self.engine_stats = messages.EngineStats([])

    def start(self) -> int:
        """Listen. Returns the port.

        Raises:
            LoadError: it is in use.
        """
        settings, loop = self._settings, asyncio.get_running_loop()

        def request_engine_stats() -> None:
            """The reply arrives after this scrape and is shown by the next one."""
            loop.call_soon_threadsafe(self._transport.send, messages.GetEngineStats())

        try:
            self._endpoints = HttpEndpoints(
                settings.http_host,
                settings.metrics_port,
                self._page if settings.metrics else None,
                self._condition,
                request_engine_stats if settings.engine == "process" and not self._asks else lambda: None,
                certificates=self._certificates if settings.has_metrics_tls else None,
                refusal=partial(self._refusal, loop),
            )
        except OSError as error:
            raise _port_in_use(settings, error) from error
        return self._endpoints.port

    def stop(self) -> None:
        if self._endpoints is not None:
            self._endpoints.stop()

    def _refusal(
        self, loop: asyncio.AbstractEventLoop, authorization: str, certificate: Sequence[str]
    ) -> str:
        """Why /metrics may not be read, or "". Called on the thread of the scrape."""
        try:
            self._guard.check_scrape(authorization, certificate)
        except Refusal as refusal:
            record = self._guard.audit.refused
            loop.call_soon_threadsafe(record, refusal.caller, "/metrics", refusal.reason)
            return refusal.message
        return ""

    def watch_engine(
        self, engine: messages.EngineInfo, registry: ModelRegistry, draining: Callable[[], bool]
    ) -> None:
        """Set the callbacks of the metrics that are read at each scrape."""
        metrics = self._metrics
        GaugeReader(metrics, registry)
        metrics.build.read = lambda: [((__version__, engine.runtime), 1.0)]
        metrics.leases.read = lambda: [((engine.device,), float(engine.leases))]
        metrics.draining.read = lambda: [((), float(draining()))]
        metrics.engine_up.read = lambda: [((), float(self._transport.up))]
        for key, family in metrics.engine_gc.items():
            family.read = partial(self._engine_gc, key)
        if self._settings.engine == "process":
            metrics.watch_engine(lambda: self._transport.pid)
        if self._settings.device != "cpu" and (found := gpus.open_gpus()) is not None:
            metrics.registry.register(found)

    def _engine_gc(self, key: str) -> list[tuple[tuple[str, ...], float]]:
        """One garbage collector count of the engine process, by generation."""
        generations = enumerate(self.engine_stats.garbage)
        return [((str(generation),), float(counts[key])) for generation, counts in generations]


def _port_in_use(settings: Settings, error: OSError) -> LoadError:
    return LoadError(
        f"--metrics-port {settings.metrics_port}: cannot listen on"
        f" {host_and_port(settings.http_host, settings.metrics_port)} ({error.strerror});"
        " choose a free port, and as --host or --metrics-host an address of this machine"
    )
