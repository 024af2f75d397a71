"""Converts model specs and statistics to Open Inference messages: metadata, config, statistics, index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lockstep_proto import model_config_pb2
from lockstep_proto import open_inference_pb2 as pb

if TYPE_CHECKING:
    from ..frontend.served_model import ModelStatisticsCounters
    from ..frontend.versions import ModelVersion
    from ..model.spec import ModelSpec, ModelTensor


def index(entry: ModelVersion) -> pb.RepositoryIndexResponse.ModelIndex:
    reason = entry.reason or (entry.spec.notice if entry.spec else "")
    return pb.RepositoryIndexResponse.ModelIndex(
        name=entry.name, version=str(entry.version), state=entry.state.name, reason=reason
    )


def listed_inputs(spec: ModelSpec) -> list[ModelTensor]:
    """The inputs without those that the server fills in, which clients may send but need not.

    Metadata and config must list the same inputs, or perf_analyzer fails.
    """
    return [tensor for tensor in spec.inputs if not tensor.spec.filled]


def wire_shape(spec: ModelSpec, tensor: ModelTensor) -> list[int]:
    """The wire shape; a step-wise model takes one row per request."""
    shape = tensor.wire_shape()
    if spec.is_stepwise and tensor.spec.batch_axis is not None:
        shape[tensor.spec.batch_axis] = 1
    return shape


def metadata(spec: ModelSpec, versions: list[int]) -> pb.ModelMetadataResponse:
    def convert(tensor: ModelTensor) -> pb.ModelMetadataResponse.TensorMetadata:
        return pb.ModelMetadataResponse.TensorMetadata(
            name=tensor.name, datatype=tensor.datatype, shape=wire_shape(spec, tensor)
        )

    return pb.ModelMetadataResponse(
        name=spec.name,
        versions=[str(version) for version in versions],
        platform=spec.platform,
        inputs=[convert(tensor) for tensor in listed_inputs(spec)],
        outputs=[convert(tensor) for tensor in spec.outputs],
    )


def config(spec: ModelSpec) -> model_config_pb2.ModelConfig:
    """Triton's model configuration. As in Triton, dims omit the batch axis if max_batch_size is not 0."""
    first = 1 if spec.batch_first and not spec.is_stepwise else 0
    config = model_config_pb2.ModelConfig(
        name=spec.name,
        platform=spec.platform,
        backend="onnxruntime",
        max_batch_size=spec.manifest.batching.max_rows if first else 0,
        default_model_filename=spec.manifest.stepwise.graph
        if spec.is_stepwise and spec.manifest.stepwise
        else "model.onnx",
    )
    for tensor in listed_inputs(spec):
        config.input.add(
            name=tensor.name,
            data_type=_data_type(tensor),
            dims=wire_shape(spec, tensor)[first:],
            allow_ragged_batch=bool(tensor.spec.lengths),
            optional=tensor.optional,
        )
    for tensor in spec.outputs:
        config.output.add(
            name=tensor.name, data_type=_data_type(tensor), dims=wire_shape(spec, tensor)[first:]
        )
    kind = model_config_pb2.ModelInstanceGroup.KIND_CPU
    if spec.provider.startswith("CUDA"):
        kind = model_config_pb2.ModelInstanceGroup.KIND_GPU
    config.instance_group.add(name=spec.name, count=spec.instances, kind=kind)
    config.version_policy.specific.versions.extend(spec.versions)
    config.model_transaction_policy.decoupled = False
    if spec.is_stepwise and spec.manifest.stepwise is not None:
        idle_us = int(spec.manifest.stepwise.idle_timeout_s * 1e6)
        config.sequence_batching.max_sequence_idle_microseconds = idle_us
    elif spec.batched:
        config.dynamic_batching.max_queue_delay_microseconds = 0
    return config


def _data_type(tensor: ModelTensor) -> Any:
    name = "TYPE_STRING" if tensor.datatype == "BYTES" else f"TYPE_{tensor.datatype}"
    return model_config_pb2.DataType.Value(name)


def statistics(spec: ModelSpec, counted: ModelStatisticsCounters) -> pb.ModelStatistics:
    ended = counted.succeeded + counted.failed

    def duration(count: int, seconds: float) -> pb.StatisticDuration:
        return pb.StatisticDuration(count=count, ns=int(seconds * 1e9))

    return pb.ModelStatistics(
        name=spec.name,
        version=str(spec.version),
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


def _batch_statistics(counted: ModelStatisticsCounters, rows: int) -> pb.InferBatchStatistics:
    count = counted.by_rows[rows]
    durations = [pb.StatisticDuration(count=count, ns=int(s * 1e9)) for s in counted.seconds_by_rows[rows]]
    return pb.InferBatchStatistics(
        batch_size=rows, compute_input=durations[0], compute_infer=durations[1], compute_output=durations[2]
    )
