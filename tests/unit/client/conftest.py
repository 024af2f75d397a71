"""A gRPC server with scripted replies, for the tests of the client."""

from __future__ import annotations

import io
import threading
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from patience import PATIENCE_S
from unit.client.awaited import Awaited
from unit.client.fake_streams import Streams

from lockstep_client import Client, cli, inference
from lockstep_proto.v1 import sequences_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True)
class Failure:
    """A scripted failure of one call: the status, its google.rpc details, and extra trailers."""

    code: grpc.StatusCode
    message: str
    details: tuple[Any, ...] = ()
    trailers: tuple[tuple[str, str], ...] = ()

    def end(self, context: grpc.ServicerContext) -> None:
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        for detail in self.details:
            packed = Packed()
            packed.Pack(detail)
            status.details.append(packed)
        context.set_trailing_metadata((*self.trailers, (DETAILS_KEY, status.SerializeToString())))
        context.abort(self.code, self.message)


@dataclass
class FakeServer:
    """Implements the protocols. Each call first consumes one of `failures`, if any."""

    models: tuple[str, ...] = ("sentiment", "other")
    status: int = health_pb2.HealthCheckResponse.SERVING
    statuses: list[int] = field(default_factory=list)
    """Before `status`, one for each health check."""
    failures: list[Failure] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)
    notice: str = ""
    typed: bool = False
    request_received: threading.Event = field(default_factory=threading.Event)
    answers: threading.Event = field(default_factory=threading.Event)
    streams: Streams = field(default_factory=Streams)
    address: str = ""

    def handled(self, request: Any, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        self.request_received.set()
        self.answers.wait(PATIENCE_S)
        if self.failures:
            self.failures.pop(0).end(context)

    def known(self, model: str, context: grpc.ServicerContext) -> None:
        if model not in self.models:
            missing = error_details_pb2.ResourceInfo(resource_type="model", resource_name=model)
            Failure(grpc.StatusCode.NOT_FOUND, f"unknown model {model!r}", (missing,)).end(context)

    def classify(self, request: Any, context: grpc.ServicerContext) -> pb.ClassifyReply:
        self.known(request.model, context)
        lengths = [len(t.split()) for t in request.texts] + [len(row.ids) for row in request.ids]
        labels = [pb.Label(name="positive", index=1, probability=0.75, score=1.5)]
        labels += [pb.Label(name="negative", index=0, probability=0.25, score=-1.5)]
        one: dict[str, Any] = {"labels": labels[: request.top_k or None]}
        one["timings"] = pb.Timings(queue_seconds=0.5, compute_seconds=0.25, steps=1, batch_rows=3)
        results = [pb.Classification(length=n, **one) for n in lengths]
        return pb.ClassifyReply(model=request.model, version="2", results=results, notice=self.notice)

    def encode(self, request: Any, context: grpc.ServicerContext) -> pb.EncodeReply:
        self.known(request.model, context)
        results = []
        for text in request.texts:
            words = text.split()
            one = pb.Encoding(vector=[0.5, -1.0, 2.0], length=len(words))
            if request.attention:
                one.tokens[:] = words
                one.attention.shape[:] = [1, 2, len(words), len(words)]
                one.attention.values[:] = [1 / len(words)] * (2 * len(words) ** 2)
            results.append(one)
        return pb.EncodeReply(model=request.model, version="2", results=results)

    def infer(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.known(request.model_name, context)
        reply = inference.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
        reply.parameters["rows"].int64_param = 4
        for one in request.inputs:
            reply.outputs.add(name=one.name, datatype=one.datatype, shape=one.shape)
        if self.typed:
            reply.outputs[0].contents.int_contents.extend([7, 8])
        else:
            reply.raw_output_contents.extend(request.raw_input_contents)
        return reply

    def index(self, request: Any, context: grpc.ServicerContext) -> Any:
        reply = inference.RepositoryIndexResponse()
        for name in self.models:
            reply.models.add(name=name, version="1", state="READY", reason="")
        if not request.ready:
            reply.models.add(
                name="broken", version="1", state="UNAVAILABLE", reason="model.toml: no [inputs]"
            )
        return reply

    def model(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.known(request.name, context)
        reply = inference.ModelMetadataResponse(
            name=request.name, versions=["1", "2"], platform="onnxruntime"
        )
        reply.inputs.add(name="tokens", datatype="INT64", shape=[-1, -1])
        reply.outputs.add(name="logits", datatype="FP32", shape=[-1, 2])
        return reply

    def statistics(self, request: Any, context: grpc.ServicerContext) -> Any:
        reply = inference.ModelStatisticsResponse()
        one = reply.model_stats.add(name=request.name or "sentiment", version="2", last_inference=1500)
        one.inference_count, one.execution_count = 5, 2
        one.inference_stats.queue.count, one.inference_stats.queue.ns = 5, 2_000_000_000
        one.batch_stats.add(batch_size=3).compute_infer.count = 1
        return reply

    def load(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.known(request.model_name, context)
        return inference.RepositoryModelLoadResponse()

    def unload(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.known(request.model_name, context)
        return inference.RepositoryModelUnloadResponse()

    def generate(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.known(request.model, context)
        return self.streams.generate(request, context)

    def translate(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.known(request.model, context)
        return self.streams.translate(request, context)

    def follow(self, requests: Any, context: grpc.ServicerContext) -> Any:
        start = next(requests).start
        self.handled(start, context)
        self.known(start.model, context)
        yield from self.streams.follow(start.model, requests, context)

    def server(self, request: Any, context: grpc.ServicerContext) -> Any:
        return inference.ServerMetadataResponse(name="fake", version="0.1", extensions=["statistics"])

    def health(self, request: Any, context: grpc.ServicerContext) -> health_pb2.HealthCheckResponse:
        if request.service:
            self.known(request.service, context)
        status = self.statuses.pop(0) if self.statuses else self.status
        return health_pb2.HealthCheckResponse(status=status)

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        inferences = {
            "ModelInfer": self._unary(self.infer, inference.ModelInferRequest),
            "RepositoryIndex": self._unary(self.index, inference.RepositoryIndexRequest),
            "RepositoryModelLoad": self._unary(self.load, inference.RepositoryModelLoadRequest),
            "RepositoryModelUnload": self._unary(self.unload, inference.RepositoryModelUnloadRequest),
            "ModelMetadata": self._unary(self.model, inference.ModelMetadataRequest),
            "ModelStatistics": self._unary(self.statistics, inference.ModelStatisticsRequest),
            "ServerMetadata": self._unary(self.server, inference.ServerMetadataRequest),
        }
        sequences = {
            "Classify": self._unary(self.classify, pb.ClassifyRequest),
            "Encode": self._unary(self.encode, pb.EncodeRequest),
            "Generate": self._stream(self.generate, pb.GenerateRequest),
            "Translate": self._stream(self.translate, pb.TranslateRequest),
            "Follow": grpc.stream_stream_rpc_method_handler(
                self.follow, pb.FollowRequest.FromString, lambda m: m.SerializeToString()
            ),
        }
        healths = {"Check": self._unary(self.health, health_pb2.HealthCheckRequest)}
        return [
            grpc.method_handlers_generic_handler("inference.GRPCInferenceService", inferences),
            grpc.method_handlers_generic_handler("lockstep.v1.Sequences", sequences),
            grpc.method_handlers_generic_handler("grpc.health.v1.Health", healths),
        ]

    def _unary(self, answer: Callable[..., Any], request: Any) -> grpc.RpcMethodHandler:
        def handle(message: Any, context: grpc.ServicerContext) -> Any:
            self.handled(message, context)
            return answer(message, context)

        return grpc.unary_unary_rpc_method_handler(
            handle,
            request_deserializer=request.FromString,
            response_serializer=lambda m: m.SerializeToString(),
        )

    def _stream(self, answer: Callable[..., Any], request: Any) -> grpc.RpcMethodHandler:
        def handle(message: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            self.handled(message, context)
            yield from answer(message, context)

        return grpc.unary_stream_rpc_method_handler(
            handle, request.FromString, lambda m: m.SerializeToString()
        )


@contextmanager
def fake_server() -> Iterator[FakeServer]:
    """A running fake server at `server.address`; clear `server.answers` to make it hang."""
    fake = FakeServer()
    fake.answers.set()
    with futures.ThreadPoolExecutor(8) as pool:
        running = grpc.server(pool, options=[("grpc.max_receive_message_length", 1 << 20)])
        running.add_generic_rpc_handlers(fake.handlers())
        fake.address = f"localhost:{running.add_insecure_port('localhost:0')}"
        running.start()
        yield fake
        fake.answers.set()
        running.stop(0).wait()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with fake_server() as fake:
        yield fake


@pytest.fixture
def other() -> Iterator[FakeServer]:
    """A second server."""
    with fake_server() as fake:
        yield fake


@pytest.fixture(params=[Client, Awaited], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Any:
    """The class of either client."""
    return request.param


@pytest.fixture
def client(server: FakeServer, connect: Any) -> Iterator[Any]:
    """Either client, connected to the fake server."""
    with connect(server.address) as client:
        yield client


@pytest.fixture
def failure() -> type[Failure]:
    """The class of scripted failures."""
    return Failure


@pytest.fixture
def nowhere() -> str:
    """An address at which no server listens."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"localhost:{taken.getsockname()[1]}"


@pytest.fixture
def lockstep(server, capsys, monkeypatch):
    """Run the command against the fake server. Returns exit code, lines of stdout, and stderr."""
    monkeypatch.setenv("LOCKSTEP_ADDRESS", server.address)

    def run(*arguments, stdin=b""):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = cli.run(arguments)
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err

    return run
