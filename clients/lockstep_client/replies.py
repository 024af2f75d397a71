"""Reply messages to results: pure, one function a message. The other half of `calls`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lockstep_client import results, tensors
from lockstep_client.errors import ServerFailure

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy.typing as npt
    from grpc_health.v1 import health_pb2

    from lockstep.v1 import sequences_pb2 as pb
    from lockstep_client import inference


def classifications(reply: pb.ClassifyReply) -> list[results.Classification]:
    """One for each text, in the order of the request."""
    return [
        results.Classification(
            labels=tuple(results.Label(m.name, m.index, m.probability, m.score) for m in one.labels),
            length=one.length,
            timings=_timings(one.timings),
            model=reply.model,
            version=reply.version,
            notice=reply.notice,
        )
        for one in reply.results
    ]


def encodings(reply: pb.EncodeReply) -> list[results.Encoding]:
    """One for each text, in the order of the request."""
    return [
        results.Encoding(
            vector=np.array(one.vector, np.float32),
            attention=_attention(one.attention) if one.HasField("attention") else None,
            tokens=tuple(one.tokens),
            length=one.length,
            timings=_timings(one.timings),
            model=reply.model,
            version=reply.version,
            notice=reply.notice,
        )
        for one in reply.results
    ]


def infer_result(reply: inference.ModelInferResponse) -> results.InferResult:
    """The outputs as arrays, from raw bytes or from typed contents."""
    return results.InferResult(
        outputs=_outputs(reply),
        model=reply.model_name,
        version=reply.model_version,
        parameters=_parameters(reply.parameters),
    )


def model_states(reply: inference.RepositoryIndexResponse) -> list[results.ModelState]:
    """One for each version of each model, in the server's order."""
    return [results.ModelState(m.name, m.version, m.state, m.reason) for m in reply.models]


def model_metadata(reply: inference.ModelMetadataResponse) -> results.ModelMetadata:
    """What the model takes and gives."""
    return results.ModelMetadata(
        name=reply.name,
        versions=tuple(reply.versions),
        platform=reply.platform,
        inputs=_specs(reply.inputs),
        outputs=_specs(reply.outputs),
    )


def server_info(reply: inference.ServerMetadataResponse) -> results.ServerInfo:
    """What answers at the address."""
    return results.ServerInfo(reply.name, reply.version, tuple(reply.extensions))


def health(model: str, reply: health_pb2.HealthCheckResponse) -> results.Health:
    """The status by its name; UNKNOWN for one that this client does not know."""
    names = reply.ServingStatus
    return results.Health(model, names.Name(reply.status) if reply.status in names.values() else "UNKNOWN")


def _timings(timings: pb.Timings) -> results.Timings:
    return results.Timings(
        queue_s=timings.queue_seconds,
        compute_s=timings.compute_seconds,
        steps=timings.steps,
        batch_rows=timings.batch_rows,
        prefill_s=timings.prefill_seconds,
        first_token_s=timings.first_token_seconds,
    )


def _attention(tensor: pb.Tensor) -> npt.NDArray[np.float32]:
    values = np.array(tensor.values, np.float32)
    try:
        return values.reshape(tuple(tensor.shape))
    except ValueError as error:
        raise ServerFailure(f"attention: {error}") from error


def _outputs(reply: inference.ModelInferResponse) -> dict[str, npt.NDArray[Any]]:
    raws = reply.raw_output_contents
    if raws and len(raws) != len(reply.outputs):
        raise ServerFailure(f"{len(raws)} raw contents came for {len(reply.outputs)} outputs")
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
