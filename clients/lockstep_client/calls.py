"""Definitions of the unary calls, shared by both clients.

arguments → `Call` (method, request message, reply reader) → client.py sends it, blocking or with asyncio →
reply message → result. Nothing here performs I/O. The functions become the methods of both clients, and
their docstrings document both. stream_calls.py defines the calls that are answered by a stream.

Every call takes `timeout_s`, its deadline in seconds; None uses the client's default, infinity sets no
deadline.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from grpc_health.v1 import health_pb2

from lockstep_client import arguments, inference, protocol, replies, tensor_request
from lockstep_client.protocol import Call, SequenceUse
from lockstep_proto.v1 import sequences_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        TokenClassification,
        Transcript,
    )

    Frames = npt.ArrayLike | Mapping[str, npt.ArrayLike]


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
    """Classify texts, or sequences of token ids. Returns a list with one result per text, in order.

        [answer] = client.classify("sentiment-lstm", "a fine film")
        print(answer.best.name, answer.best.probability)

    Each result holds the `top_k` most probable labels; 0 returns all. Queued requests with a larger
    `priority` run first. `queue_timeout_s` limits the time in the queue, in seconds; 0 uses the model's
    limit. `version` "" selects the default version.

    The server batches texts of similar length; batching does not change the results. A call takes at most
    4,096 texts. The first invalid text fails the whole call with InvalidRequest, which names the field:
    `texts[3]`. Use `classify_many` for more texts, or to get a separate error for each text.
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


def classify_tokens(
    model: str,
    texts: str | Sequence[str] = (),
    *,
    ids: Sequence[Sequence[int]] = (),
    aggregation: str = "",
    entities: bool = False,
    top_k: int = 1,
    version: str = "",
    priority: int = 0,
    queue_timeout_s: float = 0.0,
    timeout_s: float | None = None,
) -> Call[list[TokenClassification]]:
    """Label the words of texts, or token ids. Returns a list with one result per text, in order.

        [answer] = client.classify_tokens("tagger", "Ada lives in Paris")
        for span in answer.spans:
            print(span.start, span.end, span.text, span.best.name)

    A span is a word, with the labels of its first token (`aggregation="first"`), the mean of its tokens
    ("average") or those of its surest token ("max"), or it is a token ("none", the only one for ids).
    `entities` joins neighbouring spans of one entity and leaves out the label O: B-PER and I-PER become one
    span PER, as in Hugging Face's pipelines. Special tokens have no span. The other arguments are as in
    `classify`; `top_k` 0 returns all labels of a span.
    """
    request = pb.ClassifyTokensRequest(
        model=arguments.model(model),
        version=version,
        aggregation=arguments.aggregation(aggregation),
        entities=entities,
        top_k=arguments.count_32("top_k", top_k),
        priority=arguments.count("priority", priority),
        queue_timeout_seconds=arguments.seconds("queue_timeout_s", queue_timeout_s),
        **_texts_or_ids(texts, ids),
    )
    return Call(protocol.CLASSIFY_TOKENS, request, replies.token_classifications, timeout_s)


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
    """Encode texts, or sequences of token ids, as vectors. Returns a list with one result per text, in order.

        [encoding] = client.encode("sentiment-transformer", "a fine film", attention=True)
        print(encoding.vector.shape, encoding.attention.shape)  # (128,), (4, 4, 3, 3)

    The vector is float32 of shape [dimensions]. `attention` also returns the attention weights, float32 of
    shape [layers, heads, tokens, tokens], and the tokens; InvalidRequest if the model has no attention. The
    other arguments are as in `classify`.
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


def transcribe(
    model: str,
    frames: npt.NDArray[Any] | Mapping[str, npt.ArrayLike] | Sequence[Frames],
    *,
    version: str = "",
    priority: int = 0,
    queue_timeout_s: float = 0.0,
    timeout_s: float | None = None,
) -> Call[list[Transcript]]:
    """Read the text in one or more sequences of frames, such as sound, with a CTC model. Returns one result
    per sequence.

        [read] = client.transcribe("touchtones", frames)  # [frames, features], float32
        print(read.text)

    A sequence is an array [frames, ...] without an axis of rows, or a mapping of input names to arrays. A
    list holds several sequences. Requests with a larger `priority` run first. Raises Overloaded if the
    request waits longer than `queue_timeout_s`; 0 uses the model's limit.
    """
    several = [frames] if isinstance(frames, np.ndarray | Mapping) else list(frames)
    if not several:
        raise arguments.invalid("frames", "empty: expected at least one sequence")
    request = pb.TranscribeRequest(
        model=arguments.model(model),
        version=version,
        frames=[arguments.frames("frames", one) for one in several],
        priority=arguments.count("priority", priority),
        queue_timeout_seconds=arguments.seconds("queue_timeout_s", queue_timeout_s),
    )
    return Call(protocol.TRANSCRIBE, request, replies.transcripts, timeout_s)


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
    """Run a model on tensors. Works with every server of the Open Inference Protocol.

        result = client.infer("sentiment-lstm", {"tokens": np.array([[12, 7, 431, 5]])})
        print(result["logits"])  # float32 of shape [1, 1]

    Shapes include the batch axis and match those from `metadata`, where -1 stands for any size. The dtype of
    an input determines its datatype and must be the one that the model expects; ml_dtypes.bfloat16 is sent
    as BF16, str and bytes as BYTES. `outputs` names the outputs to return; empty returns all. Invalid inputs
    raise InvalidRequest, which names the input: `inputs['tokens']`.

    With a `sequence_id` (not 0, not "") the call is one step of a sequence whose state the server keeps. Set
    `sequence_start` on its first step and `sequence_end` on its last. A step goes to the server that has the
    sequence, also if that has moved it. It is not sent twice, because the server may have executed the first
    attempt: after Unavailable, SequenceLost or DeadlineExceeded start a new sequence. A client with
    `on_lost="restart"` does so itself after the first two: it sends all earlier steps again.
    """
    request_template = tensor_request.template(model, version, outputs, priority, queue_timeout_s)
    for name, value in _sequence(sequence_id, sequence_start, sequence_end).items():
        request_template.parameters[name].CopyFrom(value)
    request = tensor_request.with_inputs(request_template, inputs)
    use = (
        SequenceUse.of(model, sequence_id, steps=True, starts=sequence_start, ends=sequence_end)
        if sequence_id
        else None
    )
    return Call(
        protocol.INFER, request, replies.infer_result, timeout_s, repeatable=not sequence_id, sequence=use
    )


def models(*, ready: bool = False, timeout_s: float | None = None) -> Call[list[ModelState]]:
    """List the models of the repository: one entry per version, with its state and the reason if not READY.

    `ready` returns only models that are READY. The step-wise form of a model is listed as `NAME.step`.
    """
    request = inference.RepositoryIndexRequest(ready=ready)
    return Call(protocol.INDEX, request, replies.model_states, timeout_s)


def load_model(model: str, *, timeout_s: float | None = None) -> Call[None]:
    """Load a model of the repository, or reload it from its files. Returns when the model is READY.

    Raises Denied unless the server allows model control.
    """
    request = inference.RepositoryModelLoadRequest(model_name=arguments.model(model))
    return Call(protocol.LOAD, request, replies.empty, timeout_s)


def unload_model(model: str, *, timeout_s: float | None = None) -> Call[None]:
    """Unload a model after its in-flight requests have finished. Raises Denied as `load_model` does."""
    request = inference.RepositoryModelUnloadRequest(model_name=arguments.model(model))
    return Call(protocol.UNLOAD, request, replies.empty, timeout_s)


def metadata(model: str, *, version: str = "", timeout_s: float | None = None) -> Call[ModelMetadata]:
    """Inputs and outputs of a model with name, datatype and shape, its platform and its versions.

    Raises Unavailable while the model loads, ModelNotFound for an unknown name or version.
    """
    request = inference.ModelMetadataRequest(name=arguments.model(model), version=version)
    return Call(protocol.METADATA, request, replies.model_metadata, timeout_s)


def model_statistics(
    model: str = "", *, version: str = "", timeout_s: float | None = None
) -> Call[list[ModelStatistics]]:
    """Statistics of a model since it was loaded, one entry per version; "" returns all models."""
    request = inference.ModelStatisticsRequest(name=model, version=version)
    return Call(protocol.STATISTICS, request, replies.model_statistics, timeout_s)


def server(*, timeout_s: float | None = None) -> Call[ServerInfo]:
    """The server's name, version and protocol extensions."""
    return Call(protocol.SERVER, inference.ServerMetadataRequest(), replies.server_info, timeout_s)


def health(model: str = "", *, timeout_s: float | None = None) -> Call[Health]:
    """Health of a model, or of the whole server for "". Raises ModelNotFound for an unknown model."""
    request = health_pb2.HealthCheckRequest(service=model)
    return Call(protocol.HEALTH, request, partial(replies.health, model), timeout_s)


def _texts_or_ids(texts: str | Sequence[str], ids: Sequence[Sequence[int]]) -> dict[str, Any]:
    texts = [texts] if isinstance(texts, str) else texts
    if (len(texts) > 0) == (len(ids) > 0):
        sent = "both texts and ids" if len(texts) else "neither texts nor ids"
        raise arguments.invalid("texts", f"{sent}; pass at least one element of one of them")
    return {
        "texts": [arguments.text(f"texts[{i}]", t) for i, t in enumerate(texts)],
        "ids": [arguments.row(f"ids[{i}]", r) for i, r in enumerate(ids)],
    }


def _sequence(sequence_id: int | str, start: bool, end: bool) -> dict[str, inference.InferParameter]:
    if not sequence_id:
        if start or end:
            raise arguments.invalid("sequence_id", "missing: sequence_start and sequence_end require it")
        return {}
    return {
        "sequence_id": _sequence_id(sequence_id),
        "sequence_start": inference.InferParameter(bool_param=start),
        "sequence_end": inference.InferParameter(bool_param=end),
    }


def _sequence_id(value: int | str) -> inference.InferParameter:
    if isinstance(value, str):
        return inference.InferParameter(string_param=arguments.text("sequence_id", value))
    return inference.InferParameter(int64_param=arguments.count("sequence_id", value, below=1 << 63))
