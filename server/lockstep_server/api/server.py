"""The gRPC server: its services, channel options and health status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2_grpc import (
    add_ServerReflectionServicer_to_server as add_reflection,
)

from lockstep_proto import open_inference_pb2, open_inference_pb2_grpc
from lockstep_proto.v1 import sequences_pb2, sequences_pb2_grpc

from ..errors import LoadError
from ..settings import host_and_port
from .access import server_credentials
from .inflight import StreamLimits
from .instrumentation import InstrumentingServer, OpenCalls
from .open_inference import OpenInference
from .sequences import Sequences

if TYPE_CHECKING:
    from collections.abc import Callable

    from .. import messages
    from ..certificates import CertificateFiles
    from ..errors import ServingError
    from ..frontend import tracing
    from ..frontend.flush_control import FlushController
    from ..frontend.registry import ModelRegistry
    from ..frontend.requests import InFlightRequests
    from ..metrics.families import Metrics
    from ..settings import Settings
    from .auth import Guard

_SERVICES = (
    open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name,
    sequences_pb2.DESCRIPTOR.services_by_name["Sequences"].full_name,
)

LIVE = "live"
"""Health service name for liveness probes: SERVING while the event loop runs, whatever the models do, unless
the engine process ended and cannot be started again."""


_MAX_UNREAD_CALLS = 1 << 20
_MAX_UNREAD_S = 24 * 3600
_REFUSE_S = 1.0
"""How long a stopping server goes on refusing calls while some arrive."""

_HOLD_S = 2.0
"""How long it then keeps new calls open at most, until no more arrive."""


class HealthPublisher:
    """grpc.health.v1 status of the server (""), each service, each model by name, and `LIVE`."""

    def __init__(self) -> None:
        self.servicer = _HealthServicer(self._check_known)
        self._registry: ModelRegistry | None = None
        self._reported: dict[str, bool] = {}
        self._draining = False

    async def start(self, registry: ModelRegistry) -> None:
        """Report NOT_SERVING; the library's initial status is SERVING."""
        self._registry = registry
        await self._report(LIVE, serving=True)
        for name in ("", *_SERVICES):
            await self._report(name, serving=False)

    def alive(self) -> bool:
        return self._reported[LIVE]

    async def set_live(self, *, alive: bool) -> None:
        """Report whether the server serves or recovers by itself."""
        if not self._draining:
            await self._report(LIVE, serving=alive)

    async def update(self, registry: ModelRegistry) -> None:
        if self._draining:
            return
        for name in registry.versions.names():
            if name == LIVE:  # reserved: a model of this name has no health status
                continue
            await self._report(name, serving=registry.serving(name))
        for name in ("", *_SERVICES):
            await self._report(name, serving=registry.ready())

    async def drain(self) -> None:
        """Report NOT_SERVING for everything except `LIVE` from now on."""
        self._draining = True
        for name in list(self._reported):
            await self._report(name, serving=name == LIVE and self._reported[LIVE])

    def _check_known(self, name: str) -> None:
        if self._registry is not None and name not in self._reported:
            self._registry.check_known(name)

    async def _report(self, name: str, *, serving: bool) -> None:
        if self._reported.get(name) is not serving:
            self._reported[name] = serving
            status = health_pb2.HealthCheckResponse
            await self.servicer.set(name, status.SERVING if serving else status.NOT_SERVING)


class _HealthServicer(health.aio.HealthServicer):
    """The library's, but a model that is not known yet is UNAVAILABLE and not NOT_FOUND.

    `check_known` gets the name of a service, and raises the error for it.
    """

    def __init__(self, check_known: Callable[[str], None]) -> None:
        super().__init__()
        self._check_known = check_known

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> Any:  # noqa: N802
        self._check_known(request.service)
        return await super().Check(request, context)


class Server:
    """The gRPC server: all services on one port."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        registry: ModelRegistry,
        requests: InFlightRequests,
        send: Callable[[messages.Message], None],
        flush_control: FlushController,
        health_publisher: HealthPublisher,
        begin_trace: tracing.BeginTrace,
        guard: Guard,
        certificates: CertificateFiles | None,
    ) -> None:
        self._server = grpc.aio.server(options=_options(settings))
        self._certificates = certificates
        self._calls = OpenCalls()

        def refuse(method: str, error: ServingError) -> None:
            registry.record_refusal("", "", method, error)

        instrumented: Any = InstrumentingServer(
            self._server, metrics, begin_trace, self._calls, refuse, requests.refusal_of, guard
        )
        limits = StreamLimits(settings.max_stream_inflight, settings.max_stall_s)
        inference = OpenInference(
            registry,
            requests,
            send,
            control=settings.model_control == "explicit",
            limits=limits,
            alive=health_publisher.alive,
        )
        open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(inference, instrumented)  # type: ignore[no-untyped-call]
        sequences = Sequences(registry, requests, flush_control, limits=limits)
        sequences_pb2_grpc.add_SequencesServicer_to_server(sequences, instrumented)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(health_publisher.servicer, instrumented)
        if settings.reflection:
            names = (*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
            add_reflection(reflection.aio.ReflectionServicer(names), instrumented)  # type: ignore[no-untyped-call]
        self._settings = settings

    async def start(self) -> int:
        """Start listening. Returns the port.

        Raises:
            LoadError: cannot listen on the address.
        """
        address = host_and_port(self._settings.grpc_host, self._settings.port)
        try:
            if self._certificates is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, server_credentials(self._certificates))
        except RuntimeError:
            port = 0
        if port == 0:
            raise LoadError(
                f"--port {self._settings.port}: cannot listen on {address};"
                " choose a free port, and as --host an address of this machine"
            )
        await self._server.start()
        return port

    async def stop(self) -> None:
        """Refuse calls until none arrives, then close all connections: what is still open is UNAVAILABLE.

        gRPC ends a call that it has not passed on yet as CANCELLED when it stops. So callers that call again
        and again are held for a moment, until all of their calls have been passed on.
        """
        await self._calls.settle(_REFUSE_S)
        self._calls.hold = True
        await self._calls.settle(_HOLD_S)
        await self._server.stop(None)


def _options(settings: Settings) -> list[tuple[str, Any]]:
    largest = settings.max_message_mb * 1024 * 1024
    return [
        ("grpc.max_receive_message_length", largest),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),  # a second server on this port must fail
        # By default gRPC itself ends calls that wait to be read, from 1,000 on or after 30 s, as CANCELLED:
        # unlogged and uncounted. Admission control refuses what is too much.
        ("grpc.server.max_pending_requests", _MAX_UNREAD_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", _MAX_UNREAD_CALLS),
        ("grpc.server_max_unrequested_time_in_server", _MAX_UNREAD_S),
        # Allow pings on an idle channel twice a minute; by default gRPC closes such connections.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
        # The size limit counts compressed bytes, so a small message could inflate without bound.
        ("grpc.compression_enabled_algorithms_bitset", 1),
    ]
