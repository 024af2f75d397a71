"""Every call of the service, defined once: what is asked, and what its answer means.

arguments → `Call` (method, request message, how to read the reply) → the wire (client.py, twice: blocking
and asyncio) → reply message → result. Nothing here knows how a call is made. The functions are the methods
of both clients, so their docstrings are the documentation of both.

Every call takes `timeout_s`, its deadline in seconds; None is the client's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from lockstep.v1 import sequences_pb2 as pb
from lockstep_client import inference, replies, tensors
from lockstep_client.errors import InvalidRequest, Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy.typing as npt

    from lockstep_client.results import (
        Classification,
        Encoding,
        Health,
        InferResult,
        ModelMetadata,
        ModelState,
        ServerInfo,
    )

R = TypeVar("R")
Reply = TypeVar("Reply", bound=Message)


@dataclass(frozen=True)
class Method(Generic[Reply]):
    """A unary method of a service: its path, and the message that it answers with."""

    path: str
    reply: type[Reply]


@dataclass(frozen=True)
class Call(Generic[R]):
    """One call, ready to be made; its answer is an `R`."""

    method: Method[Any]
    request: Message
    read: Callable[[Any], R]
    timeout_s: float | None


CLASSIFY = Method("/lockstep.v1.Sequences/Classify", pb.ClassifyReply)
ENCODE = Method("/lockstep.v1.Sequences/Encode", pb.EncodeReply)
INFER = Method("/inference.GRPCInferenceService/ModelInfer", inference.ModelInferResponse)
INDEX = Method("/inference.GRPCInferenceService/RepositoryIndex", inference.RepositoryIndexResponse)
METADATA = Method("/inference.GRPCInferenceService/ModelMetadata", inference.ModelMetadataResponse)
SERVER = Method("/inference.GRPCInferenceService/ServerMetadata", inference.ServerMetadataResponse)
HEALTH = Method("/grpc.health.v1.Health/Check", health_pb2.HealthCheckResponse)

METHODS: tuple[Method[Any], ...] = (CLASSIFY, ENCODE, INFER, INDEX, METADATA, SERVER, HEALTH)


def classify(
    model: str,
    texts: str | Sequence[str] = (),
    *,
    ids: Sequence[Sequence[int]] = (),
    top_k: int = 0,
    version: str = "",
    priority: int = 0,
    queue_timeout_s: float = 0.0,
    timeout_s: float | None = None,
) -> Call[list[Classification]]:
    """Label texts, or rows of token ids: always a list, one for each, in order.

    `top_k` labels for each, most probable first; 0 is all. Larger `priority` is sooner among the requests
    that wait. `queue_timeout_s` is the longest wait before the run; 0 is the model's own limit. `version`
    "" is the one that serves by default.
    """
    request = pb.ClassifyRequest(
        model=_model(model),
        version=version,
        top_k=_count("top_k", top_k),
        priority=_count("priority", priority),
        queue_timeout_seconds=_seconds("queue_timeout_s", queue_timeout_s),
        **_texts_or_ids(texts, ids),
    )
    return Call(CLASSIFY, request, replies.classifications, timeout_s)


def encode(
    model: str,
    texts: str | Sequence[str] = (),
    *,
    ids: Sequence[Sequence[int]] = (),
    attention: bool = False,
    version: str = "",
    priority: int = 0,
    queue_timeout_s: float = 0.0,
    timeout_s: float | None = None,
) -> Call[list[Encoding]]:
    """A vector for each text, or row of token ids: always a list, one for each, in order.

    `attention` asks for the attention weights too, and for the tokens that they are over. The rest is as in
    `classify`.
    """
    request = pb.EncodeRequest(
        model=_model(model),
        version=version,
        attention=attention,
        priority=_count("priority", priority),
        queue_timeout_seconds=_seconds("queue_timeout_s", queue_timeout_s),
        **_texts_or_ids(texts, ids),
    )
    return Call(ENCODE, request, replies.encodings, timeout_s)


def infer(
    model: str,
    inputs: Mapping[str, npt.ArrayLike],
    *,
    outputs: Sequence[str] = (),
    version: str = "",
    priority: int = 0,
    queue_timeout_s: float = 0.0,
    timeout_s: float | None = None,
) -> Call[InferResult]:
    """Tensors in, tensors out, on this server or any other of the Open Inference Protocol.

    The dtype of an input decides its datatype, so it has to be the model's own (`metadata` tells it);
    ml_dtypes.bfloat16 is BF16, and str or bytes are BYTES. `outputs` names those to return; none is all.
    """
    parameters: dict[str, inference.InferParameter] = {}
    if _count("priority", priority):
        parameters["priority"] = inference.InferParameter(uint64_param=priority)
    if _seconds("queue_timeout_s", queue_timeout_s):
        parameters["timeout"] = inference.InferParameter(int64_param=max(1, round(queue_timeout_s * 1e6)))
    wire = {name: tensors.encode(name, value) for name, value in inputs.items()}
    request = inference.ModelInferRequest(
        model_name=_model(model),
        model_version=version,
        parameters=parameters,
        inputs=[
            inference.ModelInferRequest.InferInputTensor(name=name, datatype=t.datatype, shape=t.shape)
            for name, t in wire.items()
        ],
        outputs=[inference.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in outputs],
        raw_input_contents=[t.raw for t in wire.values()],
    )
    return Call(INFER, request, replies.infer_result, timeout_s)


def models(*, ready: bool = False, timeout_s: float | None = None) -> Call[list[ModelState]]:
    """The repository: one entry for each version of each model. `ready`: only those that answer now."""
    return Call(INDEX, inference.RepositoryIndexRequest(ready=ready), replies.model_states, timeout_s)


def metadata(model: str, *, version: str = "", timeout_s: float | None = None) -> Call[ModelMetadata]:
    """The model's inputs and outputs, its platform and the versions that are there."""
    request = inference.ModelMetadataRequest(name=_model(model), version=version)
    return Call(METADATA, request, replies.model_metadata, timeout_s)


def server(*, timeout_s: float | None = None) -> Call[ServerInfo]:
    """The server's name, version and extensions of the protocol."""
    return Call(SERVER, inference.ServerMetadataRequest(), replies.server_info, timeout_s)


def health(model: str = "", *, timeout_s: float | None = None) -> Call[Health]:
    """Whether a model answers now, or the whole server for "". ModelNotFound where there is none such."""
    request = health_pb2.HealthCheckRequest(service=model)
    return Call(HEALTH, request, partial(replies.health, model), timeout_s)


def _model(name: str) -> str:
    if not name:
        raise _wrong("model", "empty: give the name of a model")
    return name


def _texts_or_ids(texts: str | Sequence[str], ids: Sequence[Sequence[int]]) -> dict[str, Any]:
    texts = [texts] if isinstance(texts, str) else texts
    if (len(texts) > 0) == (len(ids) > 0):
        raise _wrong("texts", "give texts or ids, one of the two, and at least one")
    return {
        "texts": [_text(i, t) for i, t in enumerate(texts)],
        "ids": [_row(i, r) for i, r in enumerate(ids)],
    }


def _text(index: int, text: str) -> str:
    if not isinstance(text, str):
        raise _wrong(f"texts[{index}]", f"{type(text).__name__} is not a text: give str")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _wrong(f"texts[{index}]", f"not valid Unicode: {error.reason}") from error
    return text


def _row(index: int, row: Iterable[int]) -> pb.Ids:
    try:
        return pb.Ids(ids=row)
    except (TypeError, ValueError, OverflowError) as error:
        raise _wrong(f"ids[{index}]", f"not a row of 64-bit integers: {error}") from error


def _count(field: str, value: int) -> int:
    if value < 0:
        raise _wrong(field, f"{value} is negative: give 0 or more")
    return value


def _seconds(field: str, value: float) -> float:
    if not 0 <= value < float("inf"):
        raise _wrong(field, f"{value} is not a number of seconds from 0 up")
    return value


def _wrong(field: str, description: str) -> InvalidRequest:
    return InvalidRequest(f"{field}: {description}", violations=(Violation(field, description),))
