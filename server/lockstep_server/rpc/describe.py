"""Models told in the Open Inference Protocol's words: metadata, configuration, statistics, index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lockstep import model_config_pb2
from lockstep import open_inference_pb2 as pb

if TYPE_CHECKING:
    from ..models.card import Card, TensorCard
    from ..models.catalog import Entry
    from .served import Served, Statistics


def index(entry: Entry) -> pb.RepositoryIndexResponse.ModelIndex:
    reason = entry.reason or (entry.card.notice if entry.card else "")
    return pb.RepositoryIndexResponse.ModelIndex(
        name=entry.name, version=str(entry.version), state=entry.state.name, reason=reason
    )


def _asked(card: Card) -> list[TensorCard]:
    """The inputs that a client is asked for. What the server fills in is taken, not asked for; and
    perf_analyzer ends where metadata and configuration differ."""
    return [tensor for tensor in card.inputs if not tensor.words.generated]


def _wire_shape(card: Card, tensor: TensorCard) -> list[int]:
    """A step of a sequence is one row."""
    shape = tensor.wire_shape()
    if card.steps and tensor.words.batch_axis is not None:
        shape[tensor.words.batch_axis] = 1
    return shape


def metadata(card: Card, versions: list[int]) -> pb.ModelMetadataResponse:
    def tensor(one: TensorCard) -> pb.ModelMetadataResponse.TensorMetadata:
        return pb.ModelMetadataResponse.TensorMetadata(
            name=one.name, datatype=one.datatype, shape=_wire_shape(card, one)
        )

    return pb.ModelMetadataResponse(
        name=card.name,
        versions=[str(version) for version in versions],
        platform=card.platform,
        inputs=[tensor(one) for one in _asked(card)],
        outputs=[tensor(one) for one in card.outputs],
    )


def config(card: Card) -> model_config_pb2.ModelConfig:
    """Triton's words: dims leave the batch axis out where max_batch_size says that there is one."""
    first = 1 if card.batch_first and not card.steps else 0
    config = model_config_pb2.ModelConfig(
        name=card.name,
        platform=card.platform,
        backend="onnxruntime",
        max_batch_size=card.manifest.batching.max_rows if first else 0,
        default_model_filename=card.manifest.stepwise.graph
        if card.steps and card.manifest.stepwise
        else "model.onnx",
    )
    for tensor in _asked(card):
        config.input.add(
            name=tensor.name,
            data_type=_data_type(tensor),
            dims=_wire_shape(card, tensor)[first:],
            allow_ragged_batch=bool(tensor.words.lengths),
            optional=tensor.optional,
        )
    for tensor in card.outputs:
        config.output.add(
            name=tensor.name, data_type=_data_type(tensor), dims=_wire_shape(card, tensor)[first:]
        )
    kind = model_config_pb2.ModelInstanceGroup.KIND_CPU
    if card.provider.startswith("CUDA"):
        kind = model_config_pb2.ModelInstanceGroup.KIND_GPU
    config.instance_group.add(name=card.name, count=card.instances, kind=kind)
    config.version_policy.specific.versions.extend(card.versions)
    config.model_transaction_policy.decoupled = False
    if card.steps and card.manifest.stepwise is not None:
        idle_us = int(card.manifest.stepwise.idle_timeout_s * 1e6)
        config.sequence_batching.max_sequence_idle_microseconds = idle_us
    elif card.batched:
        config.dynamic_batching.max_queue_delay_microseconds = 0
    return config


def _data_type(tensor: TensorCard) -> Any:
    name = "TYPE_STRING" if tensor.datatype == "BYTES" else f"TYPE_{tensor.datatype}"
    return model_config_pb2.DataType.Value(name)


def statistics(served: Served) -> pb.ModelStatistics:
    counted, card = served.statistics, served.card
    ended = counted.succeeded + counted.failed

    def duration(count: int, seconds: float) -> pb.StatisticDuration:
        return pb.StatisticDuration(count=count, ns=int(seconds * 1e9))

    return pb.ModelStatistics(
        name=card.name,
        version=str(card.version),
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


def _batch_statistics(counted: Statistics, rows: int) -> pb.InferBatchStatistics:
    count = counted.by_rows[rows]
    durations = [pb.StatisticDuration(count=count, ns=int(s * 1e9)) for s in counted.seconds_by_rows[rows]]
    return pb.InferBatchStatistics(
        batch_size=rows, compute_input=durations[0], compute_infer=durations[1], compute_output=durations[2]
    )
