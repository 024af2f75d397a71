"""The health of the server, its services and its models, as grpc.health.v1 reports it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grpc_health.v1 import health, health_pb2

from lockstep_proto import open_inference_pb2
from lockstep_proto.v1 import operations_pb2, sequences_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..frontend.registry import ModelRegistry

SERVICES = (
    open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name,
    sequences_pb2.DESCRIPTOR.services_by_name["Sequences"].full_name,
    operations_pb2.DESCRIPTOR.services_by_name["Operations"].full_name,
)

LIVE = "live"
"""Health service name for liveness probes: SERVING while the event loop runs, whatever the models do, unless
the engine process ended and cannot be started again."""


OF_NO_MODEL = frozenset(("", LIVE, *SERVICES))
"""Names whose health says nothing of a single model."""


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
        for name in ("", *SERVICES):
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
        for name in ("", *SERVICES):
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
