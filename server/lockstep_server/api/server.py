"""The gRPC server: its services and channel options."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2_grpc import (
    add_ServerReflectionServicer_to_server as add_reflection,
)

from lockstep_proto import open_inference_pb2_grpc
from lockstep_proto.v1 import operations_pb2_grpc, peers_pb2_grpc, sequences_pb2_grpc

from ..errors import LoadError
from ..frontend.callers import current
from ..settings import host_and_port
from .access import server_credentials
from .calls import ArrivingCalls, OpenCalls
from .health import SERVICES
from .inflight import StreamLimits
from .instrumentation import InstrumentingServer
from .open_inference import OpenInference
from .operations import Operations
from .peers import PeerCalls
from .sequence_states import SequenceKeys, StateCalls
from .sequences import Sequences
from .shared_memory import SharedMemory

if TYPE_CHECKING:
    from collections.abc import Callable

    from .. import messages
    from ..certificates import CertificateFiles
    from ..errors import ServingError
    from ..frontend import tracing
    from ..frontend.flush_control import FlushController
    from ..frontend.moving import Mover
    from ..frontend.recorder import Recorder
    from ..frontend.registry import ModelRegistry
    from ..frontend.requests import InFlightRequests
    from ..frontend.sequence_states import SequenceStates
    from ..metrics.families import Metrics
    from ..settings import Settings
    from .auth import Guard
    from .health import HealthPublisher

_MAX_UNREAD_CALLS = 1 << 20
_MAX_UNREAD_S = 24 * 3600
_REFUSE_S = 1.0
"""How long a stopping server goes on refusing calls while some arrive."""

_HOLD_S = 2.0
"""How long it then keeps new calls open at most, until no more arrive."""


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
        recorder: Recorder,
        sequence_states: SequenceStates,
        mover: Mover | None = None,
        *,
        shares_port: bool = False,
    ) -> None:
        """
        Args:
            mover: moves sequences from and to peers; None: there are none.
            shares_port: other processes listen on the port too, and the system gives each connection to one.
        """
        self._server = grpc.aio.server(options=_options(settings, shares_port=shares_port))
        self._certificates = certificates
        self._calls = OpenCalls()

        def refuse(method: str, error: ServingError) -> None:
            registry.record_refusal("", "", method, error)

        def admit(size: int) -> ServingError | None:
            return requests.usage.no_room(size, current.get())

        arriving = (2 * settings.max_inflight_mb << 20) // settings.frontends
        self._arriving = ArrivingCalls(arriving, settings.max_message_mb << 20)
        instrumented: Any = InstrumentingServer(
            self._server, metrics, begin_trace, self._calls, refuse, admit, guard, self._arriving
        )
        limits = StreamLimits(settings.max_stream_inflight, settings.max_stall_s)
        inference = OpenInference(
            registry,
            requests,
            send,
            control=settings.model_control == "explicit",
            limits=limits,
            alive=health_publisher.alive,
            shared_memory=SharedMemory(settings.shared_memory_keys, settings.max_message_mb << 20, admit),
        )
        open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(inference, instrumented)  # type: ignore[no-untyped-call]
        keys, most = SequenceKeys.read(settings.sequence_key_file), settings.max_sequence_mb << 20
        states = StateCalls(registry, requests, sequence_states, keys, most)
        sequences = Sequences(registry, requests, flush_control, limits=limits, state_calls=states)
        sequences_pb2_grpc.add_SequencesServicer_to_server(sequences, instrumented)  # type: ignore[no-untyped-call]
        if mover is not None:
            peers = PeerCalls(mover, registry, keys)
            peers_pb2_grpc.add_PeersServicer_to_server(peers, instrumented)  # type: ignore[no-untyped-call]
        operations = Operations(registry, requests, recorder)
        operations_pb2_grpc.add_OperationsServicer_to_server(operations, instrumented)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(health_publisher.servicer, instrumented)
        if settings.reflection:
            names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
            add_reflection(reflection.aio.ReflectionServicer(names), instrumented)  # type: ignore[no-untyped-call]
        self._settings = settings
        self._watching: asyncio.Task[None] | None = None

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
        self._watching = asyncio.ensure_future(self._arriving.watch())
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
        if self._watching is not None:
            self._watching.cancel()


def _options(settings: Settings, *, shares_port: bool = False) -> list[tuple[str, Any]]:
    largest = settings.max_message_mb * 1024 * 1024
    return [
        ("grpc.max_receive_message_length", largest),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", int(shares_port)),  # otherwise a second server on this port must fail
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
