"""The only file that wires everything: host <- transport -> calls, directory -> services -> server."""

from __future__ import annotations

import asyncio
import logging
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from . import __version__, gpus, port
from .errors import LoadError, unavailable
from .metrics import Metrics
from .pages import Pages
from .rpc.calls import Calls
from .rpc.journal import Journal
from .rpc.levels import Levels
from .rpc.pacing import Pacer
from .rpc.served import Directory
from .rpc.server import Health, Server
from .rpc.traces import begin
from .settings import Settings  # noqa: TC001
from .transport.engine_process import EngineProcess
from .transport.in_process import InProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from .rpc.spans import Spans
    from .transport import Transport

log = logging.getLogger(__name__)

_LAST_SPANS_S = 2.0


class App:
    """A server, from its settings. Starts in order and stops in reverse."""

    def __init__(
        self, settings: Settings, metrics: Metrics | None = None, spans: Spans | None = None
    ) -> None:
        self.settings = settings
        self._spans = spans or _spans(settings)
        self.metrics = metrics or Metrics(counting=settings.metrics)
        self._transport = _transport(settings, self._lost)
        self._health = Health()
        journal = Journal(texts=settings.log_texts)
        self.directory = Directory(self.metrics, self._health.update, journal)
        took = self.metrics.loop_lag.observe
        self.calls = Calls(self._transport.send, self.directory, journal, took)
        self._pacer = Pacer(self._transport.send, settings.max_flush_ms / 1000)
        self._server = Server(
            settings,
            self.metrics,
            self.directory,
            self.calls,
            self._transport.send,
            self._pacer,
            self._health,
            self._spans.begin if self._spans is not None else begin,
        )
        self._pages: Pages | None = None
        self._vitals = port.Vitals(())
        self.port = 0
        self.metrics_port = 0

    async def start(self) -> None:
        """Listen first, so that a port that is taken is told at once; then load the models.

        Raises:
            LoadError: a port is taken, there is no repository, or not the device that the settings ask for.
        """
        await self._health.start()
        self.port = await self._server.start()
        self._pages = self._serve_pages()
        self.metrics_port = self._pages.port
        about = await self._transport.start(self._deliver)
        self.directory.device = about.device
        self._tell_levels(about)
        await self.directory.listed()

    def _serve_pages(self) -> Pages:
        settings, loop = self.settings, asyncio.get_running_loop()

        def inquire() -> None:
            """What is told in time for the next scrape."""
            loop.call_soon_threadsafe(self._transport.send, port.Inquire())

        before = inquire if settings.engine == "process" else lambda: None
        registry = self.metrics.registry if settings.metrics else None
        try:
            return Pages(settings.host, settings.metrics_port, registry, self._healthy, before)
        except OSError as error:
            raise _port_taken(settings, error) from error

    def _tell_levels(self, about: port.About) -> None:
        """What is not counted, but read at each scrape."""
        metrics = self.metrics
        Levels(metrics, self.directory)
        metrics.build.read = lambda: [((__version__, about.runtime), 1.0)]
        metrics.permits.read = lambda: [((about.device,), float(about.permits))]
        metrics.draining.read = lambda: [((), float(self.calls.draining))]
        metrics.flush_interval.read = lambda: [((), self._pacer.interval_s)]
        metrics.engine_up.read = lambda: [((), float(self._transport.up))]
        for key, family in metrics.engine_gc.items():
            family.read = partial(self._garbage, key)
        if self.settings.engine == "process":
            metrics.watch_engine(lambda: self._transport.pid)
        if self.settings.device != "cpu" and (found := gpus.open_gpus()) is not None:
            metrics.registry.register(found)

    def _garbage(self, key: str) -> list[tuple[tuple[str, ...], float]]:
        """Of the engine process, by generation."""
        generations = enumerate(self._vitals.garbage)
        return [((str(generation),), float(counts[key])) for generation, counts in generations]

    async def stop(self) -> None:
        """Drain, then stop; in bounded time."""
        settings = self.settings
        await self._health.drain()
        drained = await self.calls.drain(settings.drain_s)
        if not drained:
            log.warning("%d requests are still in flight after %g s", len(self.calls), settings.drain_s)
        await self._transport.stop(within_s=1.0 if drained else 0.0)
        await self._server.stop(grace_s=1.0)
        if self._pages is not None:
            self._pages.stop()
        if self._spans is not None:
            await self._spans.stop(_LAST_SPANS_S)

    def _deliver(self, news: port.News) -> None:
        match news:
            case port.Events():
                self.calls.deliver(news)
            case port.ModelUpdate():
                self.directory.update(news)
            case port.LoadDone():
                self.directory.load_done(news)
            case port.Vitals():
                self._vitals = news

    def _lost(self, reason: str) -> None:
        """The engines have gone, and are being started again."""
        self.metrics.engine_restarts.inc()
        self.directory.lost()
        self.calls.fail_all(unavailable(f"{reason}; it is started again"))

    def _healthy(self) -> bool:
        return self.directory.ready() and not self.calls.draining


def _spans(settings: Settings) -> Spans | None:
    """
    Raises:
        LoadError: spans are wanted, and there is nothing to make them with.
    """
    if settings.traces == "off":
        return None
    try:
        from .rpc import spans

        return spans.Spans(spans.otlp(settings.traces_endpoint), settings.traces_ratio)
    except ImportError as error:
        raise LoadError(
            f"--traces otlp: {error.name} is not installed; install the extra traces (pip install"
            " 'lockstep[traces]'), or give --traces off"
        ) from error


def _transport(settings: Settings, on_loss: Callable[[str], None]) -> Transport:
    config = _host_config(settings)
    if settings.engine == "process":
        return EngineProcess(config, on_loss, log=(settings.log_level, settings.log_format))

    def host() -> port.Host:
        from .host import Host  # brings ONNX Runtime, which only the engines' side needs

        return Host(config)

    return InProcess(host)


def _host_config(settings: Settings) -> port.HostConfig:
    return port.HostConfig(
        models=settings.models,
        device=settings.device,
        cache=str(Path(settings.cache).expanduser()) if settings.cache else "",
        batching=settings.batching,
        max_run_s=settings.max_run_ms / 1000,
        tokenizer_workers=settings.tokenizer_workers,
        stalled_s=settings.max_stall_s,
        niceness=settings.engine_nice if settings.engine == "process" and sys.platform == "linux" else 0,
        selected=tuple(name.strip() for name in settings.only.split(",") if name.strip()),
    )


def _port_taken(settings: Settings, error: OSError) -> LoadError:
    return LoadError(
        f"--metrics-port {settings.metrics_port}: cannot listen on it ({error.strerror}); give another"
    )
