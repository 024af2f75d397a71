"""What a call is before anyone makes it: its method, its messages, and how to read what comes back.

The functions of calls.py, stream_calls.py and many_calls.py return these; client.py makes them, blocking or
with asyncio.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from lockstep_client import inference
from lockstep_proto.v1 import sequences_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Hashable, Iterable, Sequence

    from lockstep_client.errors import LockstepError

Reply = TypeVar("Reply", bound=Message)
G = TypeVar("G")
M = TypeVar("M")
R = TypeVar("R")

Shape = Literal["unary_unary", "unary_stream", "stream_stream"]


@dataclass(frozen=True)
class Method(Generic[Reply]):
    """A method of a service: its path, the message that it answers with, and who sends more than one."""

    path: str
    reply: type[Reply]
    shape: Shape = "unary_unary"


@dataclass(frozen=True)
class Call(Generic[R]):
    """One call, ready to be made; its answer is an `R`."""

    method: Method[Any]
    request: Message
    read: Callable[[Any], R]
    timeout_s: float | None
    repeatable: bool = True
    """Whether it may be tried again without asking: not where a second try could do a thing twice."""


@dataclass(frozen=True)
class RequestStream:
    """What a caller says bit by bit, and how one bit is written as a message."""

    given: Iterable[Any] | AsyncIterable[Any]
    write: Callable[[Any], Message]


@dataclass(frozen=True)
class StreamCall(Generic[M, R]):
    """One call that is answered by many messages, each an `M`; together they make an `R`."""

    method: Method[Any]
    request: Message
    """The whole request, or the first message of it where `pieces` follow."""
    read: Callable[[Any], M]
    join: Callable[[Sequence[M]], R]
    timeout_s: float | None
    pieces: RequestStream | None = None


@dataclass(frozen=True)
class ManyCall(Generic[G, R]):
    """One stream for many questions, each a `G`, with an outcome for each; an answer is an `R`."""

    method: Method[Any]
    given: Iterable[G] | AsyncIterable[G]
    prepare: Callable[[G], tuple[Any, int]]
    """One question as it is sent, and its size in bytes; InvalidRequest where it cannot be sent."""
    group: Callable[[Any], Hashable]
    """Of what was prepared; only those of one group share a message."""
    write: Callable[[int, Sequence[Any]], Message]
    """The number of the first one on this stream, and those that share the message."""
    read: Callable[[Any], Iterable[tuple[int, R | LockstepError]]]
    """What a message tells, by the numbers that the questions had."""
    most_in_message: int
    in_flight: int
    ordered: bool
    timeout_s: float


_SEQUENCES = "/lockstep.v1.Sequences"
_INFERENCE = "/inference.GRPCInferenceService"

CLASSIFY = Method(f"{_SEQUENCES}/Classify", pb.ClassifyReply)
ENCODE = Method(f"{_SEQUENCES}/Encode", pb.EncodeReply)
CLASSIFY_MANY = Method(f"{_SEQUENCES}/ClassifyMany", pb.ClassifyManyReply, "stream_stream")
ENCODE_MANY = Method(f"{_SEQUENCES}/EncodeMany", pb.EncodeManyReply, "stream_stream")
FOLLOW = Method(f"{_SEQUENCES}/Follow", pb.FollowReply, "stream_stream")
GENERATE = Method(f"{_SEQUENCES}/Generate", pb.GenerateReply, "unary_stream")
TRANSLATE = Method(f"{_SEQUENCES}/Translate", pb.TranslateReply, "unary_stream")
INFER = Method(f"{_INFERENCE}/ModelInfer", inference.ModelInferResponse)
INFER_MANY = Method(f"{_INFERENCE}/ModelStreamInfer", inference.ModelStreamInferResponse, "stream_stream")
INDEX = Method(f"{_INFERENCE}/RepositoryIndex", inference.RepositoryIndexResponse)
LOAD = Method(f"{_INFERENCE}/RepositoryModelLoad", inference.RepositoryModelLoadResponse)
UNLOAD = Method(f"{_INFERENCE}/RepositoryModelUnload", inference.RepositoryModelUnloadResponse)
METADATA = Method(f"{_INFERENCE}/ModelMetadata", inference.ModelMetadataResponse)
STATISTICS = Method(f"{_INFERENCE}/ModelStatistics", inference.ModelStatisticsResponse)
SERVER = Method(f"{_INFERENCE}/ServerMetadata", inference.ServerMetadataResponse)
HEALTH = Method("/grpc.health.v1.Health/Check", health_pb2.HealthCheckResponse)

METHODS: tuple[Method[Any], ...] = (
    CLASSIFY, ENCODE, CLASSIFY_MANY, ENCODE_MANY, FOLLOW, GENERATE, TRANSLATE,
    INFER, INFER_MANY, INDEX, LOAD, UNLOAD, METADATA, STATISTICS, SERVER, HEALTH,
)  # fmt: skip
