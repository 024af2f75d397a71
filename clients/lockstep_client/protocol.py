"""What a call is before anyone makes it: its method, its messages, and how to read what comes back.

The functions of calls.py and stream_calls.py return these; client.py makes them, blocking or with asyncio.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from lockstep.v1 import sequences_pb2 as pb
from lockstep_client import inference

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Iterable, Sequence

Reply = TypeVar("Reply", bound=Message)
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
class Pieces:
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
    pieces: Pieces | None = None


_SEQUENCES = "/lockstep.v1.Sequences"
_INFERENCE = "/inference.GRPCInferenceService"

CLASSIFY = Method(f"{_SEQUENCES}/Classify", pb.ClassifyReply)
ENCODE = Method(f"{_SEQUENCES}/Encode", pb.EncodeReply)
FOLLOW = Method(f"{_SEQUENCES}/Follow", pb.FollowReply, "stream_stream")
GENERATE = Method(f"{_SEQUENCES}/Generate", pb.GenerateReply, "unary_stream")
TRANSLATE = Method(f"{_SEQUENCES}/Translate", pb.TranslateReply, "unary_stream")
INFER = Method(f"{_INFERENCE}/ModelInfer", inference.ModelInferResponse)
INDEX = Method(f"{_INFERENCE}/RepositoryIndex", inference.RepositoryIndexResponse)
LOAD = Method(f"{_INFERENCE}/RepositoryModelLoad", inference.RepositoryModelLoadResponse)
UNLOAD = Method(f"{_INFERENCE}/RepositoryModelUnload", inference.RepositoryModelUnloadResponse)
METADATA = Method(f"{_INFERENCE}/ModelMetadata", inference.ModelMetadataResponse)
STATISTICS = Method(f"{_INFERENCE}/ModelStatistics", inference.ModelStatisticsResponse)
SERVER = Method(f"{_INFERENCE}/ServerMetadata", inference.ServerMetadataResponse)
HEALTH = Method("/grpc.health.v1.Health/Check", health_pb2.HealthCheckResponse)

METHODS: tuple[Method[Any], ...] = (
    CLASSIFY, ENCODE, FOLLOW, GENERATE, TRANSLATE,
    INFER, INDEX, LOAD, UNLOAD, METADATA, STATISTICS, SERVER, HEALTH,
)  # fmt: skip
