"""`inference.GRPCInferenceService`: the tensor API, as Triton's clients know it."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

import grpc

from lockstep import model_config_pb2, open_inference_pb2_grpc
from lockstep import open_inference_pb2 as pb

from .. import __version__, port
from ..errors import Meaning, ServingError, bad_input
from . import codec
from .calls import Ask, Calls

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..models.card import Card, TensorCard
    from ..models.catalog import Entry
    from .interceptors import Context
    from .served import Directory, Served, Statistics

_EXTENSIONS = ("model_repository", "model_configuration", "statistics")
_INT64_MAX = 2**63 - 1


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
        return _metadata(served.card, self._directory.catalog.versions(served.card.name))

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        return pb.ModelConfigResponse(
            config=_config(self._directory.resolve(request.name, request.version).card)
        )

    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        if request.name:
            found = [self._directory.resolve(request.name, request.version)]
        else:
            entries = self._directory.catalog
            found = [one for e in entries if (one := self._directory.get(e.name, e.version)) is not None]
        return pb.ModelStatisticsResponse(model_stats=[_statistics(one) for one in found])

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        entries = [e for e in self._directory.catalog if e.state.name == "READY" or not request.ready]
        return pb.RepositoryIndexResponse(models=[_index(entry) for entry in entries])

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
        ask = _ask(self._directory, request, "ModelInfer", context.time_remaining(), context.peer())
        event = await self._calls.answer(ask)
        return codec.encode(ask.served.card, event, request.id)

    async def ModelStreamInfer(self, requests: Any, context: Context) -> None:
        await _Pipeline(self._directory, self._calls, context, self._max_inflight).run()

    def _check_control(self) -> None:
        if not self._control:
            raise ServingError(
                Meaning.DENIED, "loading and unloading is off; start the server with --model-control explicit"
            )


class _Pipeline:
    """One ModelStreamInfer stream: many requests in flight, answers as they are ready.

    A task reads and starts requests, the handler writes. Past `max_inflight` the reader waits, and
    HTTP/2's own flow control reaches the client.
    """

    def __init__(self, directory: Directory, calls: Calls, context: Context, max_inflight: int) -> None:
        self._directory, self._calls, self._context = directory, calls, context
        self._inflight: set[int] = set()
        self._ready: deque[pb.ModelStreamInferResponse] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._max_inflight = max_inflight
        self._peer = context.peer()
        self._ended = False

    async def run(self) -> None:
        reader = asyncio.create_task(self._read())
        try:
            await self._write()
            await reader
        finally:
            reader.cancel()
            for key in list(self._inflight):
                self._calls.cancel(key)

    async def _read(self) -> None:
        try:
            while (request := await self._context.read()) is not grpc.aio.EOF:
                self._begin(request)
                while len(self._inflight) + len(self._ready) >= self._max_inflight:
                    self._room.clear()
                    await self._room.wait()
        finally:
            self._ended = True
            self._news.set()

    async def _write(self) -> None:
        while self._ready or self._inflight or not self._ended:
            while self._ready:
                await self._context.write(self._ready.popleft())
                self._room.set()
            self._news.clear()
            if not self._ended or self._inflight:
                await self._news.wait()

    def _begin(self, request: pb.ModelInferRequest) -> None:
        try:
            remaining = self._context.time_remaining()
            ask = _ask(self._directory, request, "ModelStreamInfer", remaining, self._peer)
            key = 0

            def resolve(event: port.Event) -> None:
                self._inflight.discard(key)
                self._say(_stream_reply(ask.served.card, event, request.id))

            key = self._calls.start(ask, resolve)
            self._inflight.add(key)
        except ServingError as error:
            self._say(_stream_error(error, request.id))

    def _say(self, reply: pb.ModelStreamInferResponse) -> None:
        self._ready.append(reply)
        self._news.set()


def _ask(
    directory: Directory, request: pb.ModelInferRequest, method: str, remaining_s: float | None, caller: str
) -> Ask:
    """The checked request.

    Raises:
        ServingError: no such model, or something in the request is wrong.
    """
    served = directory.resolve(request.model_name, request.model_version)
    try:
        priority, timeout_s = _parameters(request.parameters) if request.parameters else (0, 0.0)
        return Ask(
            served,
            method,
            codec.decode(served.card, request),
            outputs=codec.wanted_outputs(served.card, request) if request.outputs else (),
            priority=priority,
            queue_timeout_s=timeout_s,
            remaining_s=remaining_s,
            caller=caller,
        )
    except ServingError as error:
        served.meters.refused(method, error.meaning.value)
        raise


def _parameters(parameters: Mapping[str, pb.InferParameter]) -> tuple[int, float]:
    """(priority, queue timeout in seconds); unknown parameters are accepted.

    Raises:
        ServingError: BAD_INPUT; a sequence, which one-shot models have none of.
    """
    for name in ("sequence_id", "sequence_start", "sequence_end"):
        if name in parameters and _value(parameters[name]) not in (0, "", False, "0"):
            raise bad_input(f"parameters.{name}", "the model has no step-wise face; leave it out")
    priority, timeout_us = (_integer(parameters, name) for name in ("priority", "timeout"))
    return priority, timeout_us / 1e6


def _integer(parameters: Mapping[str, pb.InferParameter], name: str) -> int:
    if name not in parameters:
        return 0
    value = _value(parameters[name])
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _INT64_MAX:
        raise bad_input(f"parameters.{name}", f"{value!r} does not fit; send a whole number of 0 or more")
    return value


def _value(parameter: pb.InferParameter) -> Any:
    kind = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, kind) if kind else None


def _stream_reply(card: Card, event: port.Event, request_id: str) -> pb.ModelStreamInferResponse:
    if event.error is not None:
        return _stream_error(event.error, request_id)
    return pb.ModelStreamInferResponse(infer_response=codec.encode(card, event, request_id))


def _stream_error(error: ServingError, request_id: str) -> pb.ModelStreamInferResponse:
    message = f"{error.meaning.value}: {error.message}"
    return pb.ModelStreamInferResponse(
        error_message=message, infer_response=pb.ModelInferResponse(id=request_id)
    )


def _index(entry: Entry) -> pb.RepositoryIndexResponse.ModelIndex:
    return pb.RepositoryIndexResponse.ModelIndex(
        name=entry.name, version=str(entry.version), state=entry.state.name, reason=entry.reason
    )


def _metadata(card: Card, versions: list[int]) -> pb.ModelMetadataResponse:
    def tensor(one: TensorCard) -> pb.ModelMetadataResponse.TensorMetadata:
        return pb.ModelMetadataResponse.TensorMetadata(
            name=one.name, datatype=one.datatype, shape=one.wire_shape()
        )

    return pb.ModelMetadataResponse(
        name=card.name,
        versions=[str(version) for version in versions],
        platform=card.platform,
        inputs=[tensor(one) for one in card.inputs if not one.words.generated],
        outputs=[tensor(one) for one in card.outputs],
    )


def _config(card: Card) -> model_config_pb2.ModelConfig:
    """Triton's words: dims leave the batch axis out where max_batch_size says that there is one."""
    first = 1 if card.batch_first else 0
    config = model_config_pb2.ModelConfig(
        name=card.name,
        platform=card.platform,
        backend="onnxruntime",
        max_batch_size=card.manifest.batching.max_rows if first else 0,
        default_model_filename="model.onnx",
    )
    for tensor in card.inputs:
        config.input.add(
            name=tensor.name,
            data_type=_data_type(tensor),
            dims=tensor.wire_shape()[first:],
            allow_ragged_batch=bool(tensor.words.lengths),
            optional=tensor.optional or bool(tensor.words.generated),
        )
    for tensor in card.outputs:
        config.output.add(name=tensor.name, data_type=_data_type(tensor), dims=tensor.wire_shape()[first:])
    kind = model_config_pb2.ModelInstanceGroup.KIND_CPU
    if card.provider.startswith("CUDA"):
        kind = model_config_pb2.ModelInstanceGroup.KIND_GPU
    config.instance_group.add(name=card.name, count=card.manifest.instances.count, kind=kind)
    config.version_policy.specific.versions.extend(card.versions)
    config.model_transaction_policy.decoupled = False
    if card.batched:
        config.dynamic_batching.max_queue_delay_microseconds = 0
    return config


def _data_type(tensor: TensorCard) -> Any:
    name = "TYPE_STRING" if tensor.datatype == "BYTES" else f"TYPE_{tensor.datatype}"
    return model_config_pb2.DataType.Value(name)


def _statistics(served: Served) -> pb.ModelStatistics:
    counted, card = served.statistics, served.card
    ended = counted.succeeded + counted.failed

    def duration(count: int, seconds: float) -> pb.StatisticDuration:
        return pb.StatisticDuration(count=count, ns=int(seconds * 1e9))

    return pb.ModelStatistics(
        name=card.name,
        version=str(card.version),
        last_inference=counted.last_ms,
        inference_count=counted.rows,
        execution_count=counted.runs,
        inference_stats=pb.InferStatistics(
            success=duration(counted.succeeded, counted.success_s),
            fail=duration(counted.failed, counted.fail_s),
            queue=duration(ended, counted.queue_s),
            compute_input=duration(ended, counted.input_s),
            compute_infer=duration(ended, counted.compute_s),
            compute_output=duration(ended, counted.output_s),
        ),
        batch_stats=[_batch_statistics(counted, rows) for rows in sorted(counted.by_rows)],
    )


def _batch_statistics(counted: Statistics, rows: int) -> pb.InferBatchStatistics:
    count = counted.by_rows[rows]
    durations = [pb.StatisticDuration(count=count, ns=int(s * 1e9)) for s in counted.seconds_by_rows[rows]]
    return pb.InferBatchStatistics(
        batch_size=rows, compute_input=durations[0], compute_infer=durations[1], compute_output=durations[2]
    )
