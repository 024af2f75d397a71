"""`inference.GRPCInferenceService`: the tensor API, as Triton's clients know it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lockstep_proto import open_inference_pb2 as pb
from lockstep_proto import open_inference_pb2_grpc

from .. import __version__, messages
from ..errors import ErrorCode, ServingError
from . import metadata, tensors
from .tensor_stream import TensorStream, make_ask

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..frontend.registry import ModelRegistry
    from ..frontend.requests import InFlightRequests
    from .instrumentation import Context

_EXTENSIONS = ("model_repository", "model_configuration", "statistics")


class OpenInference(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Translates and delegates."""

    def __init__(
        self,
        registry: ModelRegistry,
        calls: InFlightRequests,
        send: Callable[[messages.Message], None],
        *,
        control: bool,
        max_inflight: int,
    ) -> None:
        self._registry, self._calls, self._send = registry, calls, send
        self._control, self._max_inflight = control, max_inflight

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._registry.ready() and not self._calls.draining)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        try:
            self._registry.resolve(request.name, request.version)
        except ServingError as error:
            if error.code is ErrorCode.NOT_FOUND and request.name not in self._registry.catalog.names():
                raise
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=not self._calls.draining)

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="lockstep", version=__version__, extensions=_EXTENSIONS)

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        served = self._registry.resolve(request.name, request.version)
        return metadata.metadata(served.spec, self._registry.catalog.versions(served.spec.name))

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        return pb.ModelConfigResponse(
            config=metadata.config(self._registry.resolve(request.name, request.version).spec)
        )

    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        if request.name:
            found = [self._registry.resolve(request.name, request.version)]
        else:
            entries = self._registry.catalog
            found = [one for e in entries if (one := self._registry.get(e.name, e.version)) is not None]
        return pb.ModelStatisticsResponse(model_stats=[metadata.statistics(one) for one in found])

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        entries = [e for e in self._registry.catalog if e.state.name == "READY" or not request.ready]
        return pb.RepositoryIndexResponse(models=[metadata.index(entry) for entry in entries])

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        self._check_control()
        self._send(messages.Load(request.model_name))
        await self._registry.wait_for(request.model_name, "load")
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        self._check_control()
        self._send(messages.Unload(request.model_name))
        await self._registry.wait_for(request.model_name, "unload")
        return pb.RepositoryModelUnloadResponse()

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        ask = make_ask(self._registry, request, "ModelInfer", context.time_remaining(), context.peer())
        event = await self._calls.answer(ask)
        return tensors.encode(ask.served.spec, event, request.id)

    async def ModelStreamInfer(self, requests: Any, context: Context) -> None:
        await TensorStream(self._registry, self._calls, context, self._max_inflight).run()

    def _check_control(self) -> None:
        if not self._control:
            raise ServingError(
                ErrorCode.DENIED,
                "loading and unloading is off; start the server with --model-control explicit",
            )
