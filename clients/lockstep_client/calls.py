"""Every call with one answer, defined once: what is asked, and what its answer means.

arguments → `Call` (method, request message, how to read the reply) → the wire (client.py, twice: blocking
and asyncio) → reply message → result. Nothing here knows how a call is made. The functions are the methods
of both clients, so their docstrings are the documentation of both. Those answered by a stream are in
stream_calls.py.

Every call takes `timeout_s`, its deadline in seconds; None is the client's own, infinity is none.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from grpc_health.v1 import health_pb2

from lockstep_client import arguments, inference, protocol, replies, tensor_request
from lockstep_client.protocol import Call
from lockstep_proto.v1 import sequences_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from lockstep_client.results import (
        Classification,
        Encoding,
        Health,
        InferResult,
        ModelMetadata,
        ModelState,
        ModelStatistics,
        ServerInfo,
    )


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

        [answer] = client.classify("sentiment-lstm", "a fine film")
        print(answer.best.name, answer.best.probability)

    `top_k` labels for each, most probable first; 0 is all. Larger `priority` is sooner among the requests
    that wait. `queue_timeout_s` is the longest wait before the run, in seconds; 0 is the model's own limit.
    `version` "" is the one that serves by default.

    Each text shares runs with others of its length, and is answered as if it were alone. At most 4,096 in a
    call; the first that is wrong ends it, as InvalidRequest that names the field: `texts[3]`. For more, and
    for an error of its own for each, there is `classify_many`.
    """
    request = pb.ClassifyRequest(
        model=arguments.model(model),
        version=version,
        top_k=arguments.count_32("top_k", top_k),
        priority=arguments.count("priority", priority),
        queue_timeout_seconds=arguments.seconds("queue_timeout_s", queue_timeout_s),
        **_texts_or_ids(texts, ids),
    )
    return Call(protocol.CLASSIFY, request, replies.classifications, timeout_s)


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

        [encoding] = client.encode("sentiment-transformer", "a fine film", attention=True)
        print(encoding.vector.shape, encoding.attention.shape)  # (128,), (4, 4, 3, 3)

    The vector is float32 of shape [dimensions]. `attention` asks for the weights too, float32 of shape
    [layers, heads, words, words], and for the tokens that they are over; InvalidRequest where the model has
    none. The rest is as in `classify`.
    """
    request = pb.EncodeRequest(
        model=arguments.model(model),
        version=version,
        attention=attention,
        priority=arguments.count("priority", priority),
        queue_timeout_seconds=arguments.seconds("queue_timeout_s", queue_timeout_s),
        **_texts_or_ids(texts, ids),
    )
    return Call(protocol.ENCODE, request, replies.encodings, timeout_s)


def infer(
    model: str,
    inputs: Mapping[str, npt.ArrayLike],
    *,
    outputs: Sequence[str] = (),
    sequence_id: int | str = 0,
    sequence_start: bool = False,
    sequence_end: bool = False,
    version: str = "",
    priority: int = 0,
    queue_timeout_s: float = 0.0,
    timeout_s: float | None = None,
) -> Call[InferResult]:
    """Tensors in, tensors out, on this server or any other of the Open Inference Protocol.

        result = client.infer("sentiment-lstm", {"tokens": np.array([[12, 7, 431, 5]])})
        print(result["logits"])  # float32 of shape [1, 1]

    Shapes have the batch axis, and are as `metadata` tells them, with any size where it says -1. The dtype
    of an input decides its datatype, so it has to be the model's own; ml_dtypes.bfloat16 is BF16, and str or
    bytes are BYTES. `outputs` names those to return; none is all. What does not fit is InvalidRequest, and
    names the input: `inputs['tokens']`.

    With a `sequence_id` (not 0, not "") the call is one step of a sequence whose state the server keeps:
    its first step says `sequence_start`, its last `sequence_end`. A step is never tried again by itself,
    because the first try may have been taken: after Unavailable or DeadlineExceeded start a new sequence.
    """
    begun = tensor_request.begun(model, version, outputs, priority, queue_timeout_s)
    for name, value in _sequence(sequence_id, sequence_start, sequence_end).items():
        begun.parameters[name].CopyFrom(value)
    request = tensor_request.filled(begun, inputs)
    return Call(protocol.INFER, request, replies.infer_result, timeout_s, repeatable=not sequence_id)


def models(*, ready: bool = False, timeout_s: float | None = None) -> Call[list[ModelState]]:
    """The repository: one entry for each version of each model, with its state and why it is not READY.

    `ready`: only those that answer now. A model's step-wise face is one of its own: `NAME.step`.
    """
    request = inference.RepositoryIndexRequest(ready=ready)
    return Call(protocol.INDEX, request, replies.model_states, timeout_s)


def load_model(model: str, *, timeout_s: float | None = None) -> Call[None]:
    """Bring a model of the repository into service, or take up its files again; returns when it answers.

    Denied where the server does not let clients do that.
    """
    request = inference.RepositoryModelLoadRequest(model_name=arguments.model(model))
    return Call(protocol.LOAD, request, replies.done, timeout_s)


def unload_model(model: str, *, timeout_s: float | None = None) -> Call[None]:
    """Take a model out of service; what it has in flight is answered. Denied as in `load_model`."""
    request = inference.RepositoryModelUnloadRequest(model_name=arguments.model(model))
    return Call(protocol.UNLOAD, request, replies.done, timeout_s)


def metadata(model: str, *, version: str = "", timeout_s: float | None = None) -> Call[ModelMetadata]:
    """The model's inputs and outputs by name, datatype and shape, its platform and its versions.

    Unavailable while it loads, ModelNotFound where there is none of the name or version.
    """
    request = inference.ModelMetadataRequest(name=arguments.model(model), version=version)
    return Call(protocol.METADATA, request, replies.model_metadata, timeout_s)


def model_statistics(
    model: str = "", *, version: str = "", timeout_s: float | None = None
) -> Call[list[ModelStatistics]]:
    """What the server has counted of a model since it loaded, one entry a version; "" is every model."""
    request = inference.ModelStatisticsRequest(name=model, version=version)
    return Call(protocol.STATISTICS, request, replies.model_statistics, timeout_s)


def server(*, timeout_s: float | None = None) -> Call[ServerInfo]:
    """The server's name, version and extensions of the protocol."""
    return Call(protocol.SERVER, inference.ServerMetadataRequest(), replies.server_info, timeout_s)


def health(model: str = "", *, timeout_s: float | None = None) -> Call[Health]:
    """Whether a model answers now, or the whole server for "". ModelNotFound where there is none such."""
    request = health_pb2.HealthCheckRequest(service=model)
    return Call(protocol.HEALTH, request, partial(replies.health, model), timeout_s)


def _texts_or_ids(texts: str | Sequence[str], ids: Sequence[Sequence[int]]) -> dict[str, Any]:
    texts = [texts] if isinstance(texts, str) else texts
    if (len(texts) > 0) == (len(ids) > 0):
        raise arguments.wrong("texts", "give texts or ids, one of the two, and at least one")
    return {
        "texts": [arguments.text(f"texts[{i}]", t) for i, t in enumerate(texts)],
        "ids": [arguments.row(f"ids[{i}]", r) for i, r in enumerate(ids)],
    }


def _sequence(sequence_id: int | str, start: bool, end: bool) -> dict[str, inference.InferParameter]:
    if not sequence_id:
        if start or end:
            raise arguments.wrong("sequence_id", "not given: a start or an end needs the sequence's id")
        return {}
    return {
        "sequence_id": _sequence_id(sequence_id),
        "sequence_start": inference.InferParameter(bool_param=start),
        "sequence_end": inference.InferParameter(bool_param=end),
    }


def _sequence_id(given: int | str) -> inference.InferParameter:
    if isinstance(given, str):
        return inference.InferParameter(string_param=arguments.text("sequence_id", given))
    return inference.InferParameter(int64_param=arguments.count("sequence_id", given, below=1 << 63))
