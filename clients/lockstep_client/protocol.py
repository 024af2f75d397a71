"""Descriptions of calls: the RPC method, the request messages, and how to read the replies.

The functions of calls.py, stream_calls.py and many_calls.py return these; client.py executes them, blocking
or with asyncio.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from lockstep_client import inference
from lockstep_proto.v1 import operations_pb2
from lockstep_proto.v1 import sequences_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Hashable, Iterable, Sequence

    from lockstep_client.errors import LockstepError

Reply = TypeVar("Reply", bound=Message)
G = TypeVar("G")
M = TypeVar("M")
R = TypeVar("R")

_LONGEST_KEY = 256

Shape = Literal["unary_unary", "unary_stream", "stream_stream"]


@dataclass(frozen=True)
class Method(Generic[Reply]):
    """An RPC method: its path, its reply message, and which sides stream."""

    path: str
    reply: type[Reply]
    shape: Shape = "unary_unary"


@dataclass(frozen=True)
class SequenceUse:
    """What a call does with a sequence that a server holds."""

    key: str
    """The metadata `lockstep-sequence-id`, by which clients and balancers choose a server; "": none."""
    place: Hashable
    """Names the sequence among all that this client uses."""
    steps: bool = False
    """Whether the call is a step that its caller sends."""
    starts: bool = False
    ends: bool = False

    @classmethod
    def of(
        cls,
        model: str,
        sequence_id: int | str,
        *,
        steps: bool = False,
        starts: bool = False,
        ends: bool = False,
    ) -> SequenceUse:
        """What a call does with the sequence of an id."""
        return cls(cls.key_of(sequence_id), (model.removesuffix(".step"), sequence_id), steps, starts, ends)

    @staticmethod
    def key_of(sequence_id: int | str) -> str:
        """An id as metadata: itself, or the hash of a text that metadata cannot hold."""
        text = str(sequence_id)
        if text.isascii() and text.isprintable() and text == text.strip() and len(text) <= _LONGEST_KEY:
            return text
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Call(Generic[R]):
    """One unary call; its result is an `R`."""

    method: Method[Any]
    request: Message
    read: Callable[[Any], R]
    timeout_s: float | None
    repeatable: bool = True
    """Whether it may be retried automatically: false if a second attempt could take effect twice."""
    sequence: SequenceUse | None = None
    placed: Callable[[Any], Hashable] | None = None
    """The place of the sequence that a reply is about, if the request does not say."""


@dataclass(frozen=True)
class RequestStream:
    """The pieces that a caller sends over time, and how one piece becomes a message."""

    source: Iterable[Any] | AsyncIterable[Any]
    write: Callable[[Any], Message]


@dataclass(frozen=True)
class StreamCall(Generic[M, R]):
    """One call answered by a stream of messages, each an `M`; together they make an `R`."""

    method: Method[Any]
    request: Message
    """The whole request, or its first message if `pieces` follow."""
    read: Callable[[Any], M]
    join: Callable[[Sequence[M]], R]
    timeout_s: float | None
    pieces: RequestStream | None = None
    resume: Callable[[Message, Sequence[M]], Message | None] | None = None
    """The request that goes on after these parts, exactly as the stream would have; None if none does."""
    sequence: SequenceUse | None = None


@dataclass(frozen=True)
class ManyCall(Generic[G, R]):
    """A stream of many items, each a `G`, with one outcome per item; a result is an `R`."""

    method: Method[Any]
    source: Iterable[G] | AsyncIterable[G]
    prepare: Callable[[G], tuple[Any, int]]
    """Converts an item to its wire form, and returns it with its size in bytes. Raises InvalidRequest."""
    group: Callable[[Any], Hashable]
    """The group of a prepared item; only items of one group share a message."""
    write: Callable[[int, Sequence[Any]], Message]
    """Writes a message of prepared items, given the number of the first one on this stream."""
    read: Callable[[Any], Iterable[tuple[int, R | LockstepError]]]
    """The results in a reply, with the numbers of their items."""
    most_in_message: int
    in_flight: int
    ordered: bool
    timeout_s: float


_SEQUENCES = "/lockstep.v1.Sequences"
_OPERATIONS = "/lockstep.v1.Operations"
_INFERENCE = "/inference.GRPCInferenceService"

CLASSIFY = Method(f"{_SEQUENCES}/Classify", pb.ClassifyReply)
ENCODE = Method(f"{_SEQUENCES}/Encode", pb.EncodeReply)
CLASSIFY_TOKENS = Method(f"{_SEQUENCES}/ClassifyTokens", pb.ClassifyTokensReply)
CLASSIFY_TOKENS_MANY = Method(f"{_SEQUENCES}/ClassifyTokensMany", pb.ClassifyTokensManyReply, "stream_stream")
CLASSIFY_MANY = Method(f"{_SEQUENCES}/ClassifyMany", pb.ClassifyManyReply, "stream_stream")
ENCODE_MANY = Method(f"{_SEQUENCES}/EncodeMany", pb.EncodeManyReply, "stream_stream")
FOLLOW = Method(f"{_SEQUENCES}/Follow", pb.FollowReply, "stream_stream")
GENERATE = Method(f"{_SEQUENCES}/Generate", pb.GenerateReply, "unary_stream")
GET_SEQUENCE = Method(f"{_SEQUENCES}/GetSequence", pb.GetSequenceReply)
PUT_SEQUENCE = Method(f"{_SEQUENCES}/PutSequence", pb.PutSequenceReply)
TRANSCRIBE = Method(f"{_SEQUENCES}/Transcribe", pb.TranscribeReply)
TRANSLATE = Method(f"{_SEQUENCES}/Translate", pb.TranslateReply, "unary_stream")
INFER = Method(f"{_INFERENCE}/ModelInfer", inference.ModelInferResponse)
INFER_MANY = Method(f"{_INFERENCE}/ModelStreamInfer", inference.ModelStreamInferResponse, "stream_stream")
INDEX = Method(f"{_INFERENCE}/RepositoryIndex", inference.RepositoryIndexResponse)
LOAD = Method(f"{_INFERENCE}/RepositoryModelLoad", inference.RepositoryModelLoadResponse)
UNLOAD = Method(f"{_INFERENCE}/RepositoryModelUnload", inference.RepositoryModelUnloadResponse)
METADATA = Method(f"{_INFERENCE}/ModelMetadata", inference.ModelMetadataResponse)
STATISTICS = Method(f"{_INFERENCE}/ModelStatistics", inference.ModelStatisticsResponse)
SERVER = Method(f"{_INFERENCE}/ServerMetadata", inference.ServerMetadataResponse)
DESCRIBE = Method(f"{_OPERATIONS}/Describe", operations_pb2.DescribeReply)
RUNS = Method(f"{_OPERATIONS}/Runs", operations_pb2.RunsReply, "unary_stream")
REQUESTS = Method(f"{_OPERATIONS}/Requests", operations_pb2.RequestsReply)
HEALTH = Method("/grpc.health.v1.Health/Check", health_pb2.HealthCheckResponse)

METHODS: tuple[Method[Any], ...] = (
    CLASSIFY, CLASSIFY_TOKENS, ENCODE, CLASSIFY_MANY, CLASSIFY_TOKENS_MANY,
    ENCODE_MANY, FOLLOW, GENERATE, GET_SEQUENCE, PUT_SEQUENCE, TRANSCRIBE, TRANSLATE,
    INFER, INFER_MANY, INDEX, LOAD, UNLOAD, METADATA, STATISTICS, SERVER, DESCRIBE, RUNS, REQUESTS,
    HEALTH,
)  # fmt: skip
