"""`inference.GRPCInferenceService`: the Open Inference tensor API, compatible with Triton clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lockstep_proto import open_inference_pb2 as pb
from lockstep_proto import open_inference_pb2_grpc

from .. import __version__, messages
from ..errors import ErrorCode, ServingError, bad_input
from ..frontend.callers import current
from . import metadata, tensor_replies
from .tensor_stream import TensorStream, make_inference_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..frontend.registry import ModelRegistry
    from ..frontend.requests import InFlightRequests
    from .inflight import StreamLimits
    from .shared_memory import SharedMemory
    from .status import Context

_EXTENSIONS = ("model_repository", "model_configuration", "statistics")


class OpenInference(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(
        self,
        registry: ModelRegistry,
        requests: InFlightRequests,
        send: Callable[[messages.Message], None],
        *,
        control: bool,
        limits: StreamLimits,
        alive: Callable[[], bool],
        shared_memory: SharedMemory,
    ) -> None:
        self._shared_memory = shared_memory
        self._registry, self._requests, self._send = registry, requests, send
        self._control, self._limits, self._alive = control, limits, alive

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=self._alive())

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._registry.ready() and not self._requests.draining)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        try:
            self._registry.resolve(request.name, request.version)
        except ServingError as error:
            if error.code is ErrorCode.NOT_FOUND and request.name not in self._registry.versions.names():
                raise
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=not self._requests.draining)

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        extensions = (*_EXTENSIONS, *(["system_shared_memory"] if self._shared_memory.on else []))
        return pb.ServerMetadataResponse(name="lockstep", version=__version__, extensions=extensions)

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        served = self._registry.resolve(request.name, request.version)
        return metadata.metadata(served.spec, self._registry.versions.ready(served.spec.name))

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
            may_use = current.get().may_use
            found = [one for one in self._registry.served_models() if may_use(one.spec.name)]
        counted = await self._registry.statistics(found)
        return pb.ModelStatisticsResponse(
            model_stats=[metadata.statistics(one.spec, statistics) for one, statistics in counted]
        )

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        if not self._registry.versions.names():
            self._registry.check_listed()
        versions = [v for v in self._registry.versions if v.state.name == "READY" or not request.ready]
        mine = [metadata.index(version) for version in versions if current.get().may_use(version.name)]
        return pb.RepositoryIndexResponse(models=mine)

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        self._check_control()
        for name in request.parameters:
            raise bad_input(
                f"parameters.{name}", "a load takes no overrides; change the files in the repository instead"
            )
        self._registry.check_listed()
        await self._registry.loads.change(messages.Load, request.model_name, self._send)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        self._check_control()
        self._registry.check_listed()
        await self._registry.loads.change(messages.Unload, request.model_name, self._send)
        return pb.RepositoryModelUnloadResponse()

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> bytes:
        remaining_s, caller = context.time_remaining(), current.get().name
        inference, requested = await make_inference_request(
            self._registry, request, "ModelInfer", remaining_s, caller, self._shared_memory
        )
        event, spec = await self._requests.infer(inference), inference.served.spec
        written = await self._shared_memory.write(spec, request, event) if self._shared_memory.on else {}
        return await tensor_replies.encode_reply(spec, event, inference.id, requested, written)

    async def ModelStreamInfer(self, requests: Any, context: Context) -> None:
        await TensorStream(self._registry, self._requests, context, self._limits, self._shared_memory).run()

    async def SystemSharedMemoryStatus(
        self, request: pb.SystemSharedMemoryStatusRequest, context: Context
    ) -> pb.SystemSharedMemoryStatusResponse:
        return self._shared_memory.status(request.name)

    async def SystemSharedMemoryRegister(
        self, request: pb.SystemSharedMemoryRegisterRequest, context: Context
    ) -> pb.SystemSharedMemoryRegisterResponse:
        self._shared_memory.register(request)
        return pb.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryUnregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest, context: Context
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        self._shared_memory.unregister(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    def _check_control(self) -> None:
        if not self._control:
            raise ServingError(
                ErrorCode.DENIED,
                "loading and unloading models is disabled; start the server with --model-control explicit",
            )
