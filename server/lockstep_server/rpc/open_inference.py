"""`inference.GRPCInferenceService`: the tensor API, as Triton's clients know it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lockstep import open_inference_pb2 as pb
from lockstep import open_inference_pb2_grpc

from .. import __version__, port
from ..errors import Meaning, ServingError
from . import codec, describe
from .pipeline import Pipeline, make_ask

if TYPE_CHECKING:
    from collections.abc import Callable

    from .calls import Calls
    from .interceptors import Context
    from .served import Directory

_EXTENSIONS = ("model_repository", "model_configuration", "statistics")


class OpenInference(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Translates and delegates."""

    def __init__(
        self,
        directory: Directory,
        calls: Calls,
        send: Callable[[port.Message], None],
        *,
        control: bool,
        max_inflight: int,
    ) -> None:
        self._directory, self._calls, self._send = directory, calls, send
        self._control, self._max_inflight = control, max_inflight

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._directory.ready() and not self._calls.draining)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        try:
            self._directory.resolve(request.name, request.version)
        except ServingError as error:
            if error.meaning is Meaning.NOT_FOUND and request.name not in self._directory.catalog.names():
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
        served = self._directory.resolve(request.name, request.version)
        return describe.metadata(served.card, self._directory.catalog.versions(served.card.name))

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        return pb.ModelConfigResponse(
            config=describe.config(self._directory.resolve(request.name, request.version).card)
        )

    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        if request.name:
            found = [self._directory.resolve(request.name, request.version)]
        else:
            entries = self._directory.catalog
            found = [one for e in entries if (one := self._directory.get(e.name, e.version)) is not None]
        return pb.ModelStatisticsResponse(model_stats=[describe.statistics(one) for one in found])

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        entries = [e for e in self._directory.catalog if e.state.name == "READY" or not request.ready]
        return pb.RepositoryIndexResponse(models=[describe.index(entry) for entry in entries])

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        self._check_control()
        self._send(port.Load(request.model_name))
        await self._directory.wait_for(request.model_name, "load")
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        self._check_control()
        self._send(port.Unload(request.model_name))
        await self._directory.wait_for(request.model_name, "unload")
        return pb.RepositoryModelUnloadResponse()

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        ask = make_ask(self._directory, request, "ModelInfer", context.time_remaining(), context.peer())
        event = await self._calls.answer(ask)
        return codec.encode(ask.served.card, event, request.id)

    async def ModelStreamInfer(self, requests: Any, context: Context) -> None:
        await Pipeline(self._directory, self._calls, context, self._max_inflight).run()

    def _check_control(self) -> None:
        if not self._control:
            raise ServingError(
                Meaning.DENIED, "loading and unloading is off; start the server with --model-control explicit"
            )
