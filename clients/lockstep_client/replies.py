"""Conversion of unary reply messages to results, one pure function per message. Counterpart of calls.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lockstep_client import results, tensors
from lockstep_client.errors import ServerFailure

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy.typing as npt
    from google.protobuf.message import Message
    from grpc_health.v1 import health_pb2

    from lockstep_client import inference
    from lockstep_proto.v1 import sequences_pb2 as pb


def classifications(reply: pb.ClassifyReply) -> list[results.Classification]:
    """One result per text, in the order of the request."""
    return [classification(message, reply) for message in reply.results]


def encodings(reply: pb.EncodeReply) -> list[results.Encoding]:
    """One result per text, in the order of the request."""
    return [encoding(message, reply) for message in reply.results]


def classification(
    message: pb.Classification, reply: pb.ClassifyReply | pb.ClassifyManyReply
) -> results.Classification:
    """The result of one text; `reply` holds the fields that all texts share."""
    return results.Classification(
        labels=labels(message.labels),
        length=message.length,
        timings=timings(message.timings),
        model=reply.model,
        version=reply.version,
        notice=reply.notice,
    )


def transcripts(reply: pb.TranscribeReply) -> list[results.Transcript]:
    """One result per sequence of frames, in the order of the request."""
    return [
        results.Transcript(
            text=message.text,
            tokens=tuple(results.TranscriptToken(one.id, one.start, one.end) for one in message.tokens),
            length=message.length,
            timings=timings(message.timings),
            model=reply.model,
            version=reply.version,
            notice=reply.notice,
        )
        for message in reply.results
    ]


def token_classifications(reply: pb.ClassifyTokensReply) -> list[results.TokenClassification]:
    """One result per text, in the order of the request."""
    return [token_classification(message, reply) for message in reply.results]


def token_classification(
    message: pb.TokenClassification, reply: pb.ClassifyTokensReply | pb.ClassifyTokensManyReply
) -> results.TokenClassification:
    """The result of one text; `reply` holds the fields that all texts share."""
    return results.TokenClassification(
        spans=tuple(
            results.LabeledSpan(span.start, span.end, span.text, labels(span.labels), span.token, span.tokens)
            for span in message.spans
        ),
        length=message.length,
        timings=timings(message.timings),
        model=reply.model,
        version=reply.version,
        notice=reply.notice,
    )


def encoding(message: pb.Encoding, reply: pb.EncodeReply | pb.EncodeManyReply) -> results.Encoding:
    """The result of one text; `reply` holds the fields that all texts share."""
    return results.Encoding(
        vector=np.array(message.vector, np.float32),
        attention=_attention(message.attention) if message.HasField("attention") else None,
        tokens=tuple(message.tokens),
        length=message.length,
        timings=timings(message.timings),
        model=reply.model,
        version=reply.version,
        notice=reply.notice,
    )


def infer_result(reply: inference.ModelInferResponse) -> results.InferResult:
    """The outputs as arrays, from raw or typed contents."""
    return results.InferResult(
        outputs=_outputs(reply),
        model=reply.model_name,
        version=reply.model_version,
        parameters=_parameters(reply.parameters),
    )


def model_states(reply: inference.RepositoryIndexResponse) -> list[results.ModelState]:
    """One entry per version of each model, in the server's order."""
    return [results.ModelState(m.name, m.version, m.state, m.reason) for m in reply.models]


def model_metadata(reply: inference.ModelMetadataResponse) -> results.ModelMetadata:
    """Inputs and outputs of the model."""
    return results.ModelMetadata(
        name=reply.name,
        versions=tuple(reply.versions),
        platform=reply.platform,
        inputs=_specs(reply.inputs),
        outputs=_specs(reply.outputs),
    )


def server_info(reply: inference.ServerMetadataResponse) -> results.ServerInfo:
    """Name, version and extensions of the server."""
    return results.ServerInfo(reply.name, reply.version, tuple(reply.extensions))


def health(model: str, reply: health_pb2.HealthCheckResponse) -> results.Health:
    """The status by name; UNKNOWN for a value that this client does not know."""
    names = reply.ServingStatus
    return results.Health(model, names.Name(reply.status) if reply.status in names.values() else "UNKNOWN")


def model_statistics(reply: inference.ModelStatisticsResponse) -> list[results.ModelStatistics]:
    """One entry per version of each model, in the server's order."""
    return [_statistics(message) for message in reply.model_stats]


def empty(_reply: Message) -> None:
    """For calls whose reply has no content."""


def labels(messages: Iterable[pb.Label]) -> tuple[results.Label, ...]:
    """Labels in the server's order, most probable first."""
    return tuple(
        results.Label(message.name, message.index, message.probability, message.score) for message in messages
    )


def timings(message: pb.Timings) -> results.Timings:
    """The timings of a result, field by field."""
    return results.Timings(
        queue_s=message.queue_seconds,
        compute_s=message.compute_seconds,
        steps=message.steps,
        batch_rows=message.batch_rows,
        prefill_s=message.prefill_seconds,
        first_token_s=message.first_token_seconds,
        request_id=message.request_id,
    )


def _statistics(message: inference.ModelStatistics) -> results.ModelStatistics:
    stats = message.inference_stats
    return results.ModelStatistics(
        name=message.name,
        version=message.version,
        last_inference_s=message.last_inference / 1e3,
        rows=message.inference_count,
        runs=message.execution_count,
        success=_duration(stats.success),
        fail=_duration(stats.fail),
        queue=_duration(stats.queue),
        compute_input=_duration(stats.compute_input),
        compute_infer=_duration(stats.compute_infer),
        compute_output=_duration(stats.compute_output),
        runs_by_rows={batch.batch_size: _duration(batch.compute_infer) for batch in message.batch_stats},
    )


def _duration(message: inference.StatisticDuration) -> results.Duration:
    return results.Duration(message.count, message.ns / 1e9)


def _attention(tensor: pb.Tensor) -> npt.NDArray[np.float32]:
    values = np.array(tensor.values, np.float32)
    try:
        return values.reshape(tuple(tensor.shape))
    except ValueError as error:
        raise ServerFailure(f"attention: {error}") from error


def _outputs(reply: inference.ModelInferResponse) -> dict[str, npt.NDArray[Any]]:
    raws = reply.raw_output_contents
    if raws and len(raws) != len(reply.outputs):
        raise ServerFailure(f"the reply has {len(raws)} raw contents for {len(reply.outputs)} outputs")
    if not raws:
        return {
            out.name: tensors.decode_typed(out.name, out.datatype, tuple(out.shape), out.contents)
            for out in reply.outputs
        }
    return {
        out.name: tensors.decode(out.name, out.datatype, tuple(out.shape), raw)
        for out, raw in zip(reply.outputs, raws, strict=True)
    }


def _parameters(parameters: Mapping[str, inference.InferParameter]) -> dict[str, bool | int | float | str]:
    chosen = {key: value.WhichOneof("parameter_choice") for key, value in parameters.items()}
    return {key: getattr(parameters[key], field) for key, field in chosen.items() if field}


def _specs(
    tensors_: Iterable[inference.ModelMetadataResponse.TensorMetadata],
) -> tuple[results.TensorSpec, ...]:
    return tuple(results.TensorSpec(t.name, t.datatype, tuple(t.shape)) for t in tensors_)
