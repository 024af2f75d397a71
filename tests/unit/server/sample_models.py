"""Model specs, requests and parts for tests that need neither a graph nor a device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lockstep_server.engine.oneshot.request import QueuedRequest, RequestPart, split
from lockstep_server.messages import Infer
from lockstep_server.model.manifest import BatchingSection, LengthSection, Manifest, TensorSection
from lockstep_server.model.spec import ModelSpec, ModelTensor, RequestSize, measure_request


def tensor(name: str, section: TensorSection, shape: tuple[Any, ...], datatype: str = "FP32") -> ModelTensor:
    return ModelTensor(name, datatype, shape, False, section)


def ragged(axis: int = 0, **batching: Any) -> ModelSpec:
    """x, a mask, lengths -> y as long as x. `axis` is the batch axis of every tensor with two axes."""
    section = TensorSection(axis, {1 - axis: "words"}, pad=-7)
    shape = ("b", "w") if axis == 0 else ("w", "b")
    manifest = Manifest(
        lengths={"words": LengthSection(1000)}, batching=BatchingSection(**batching), from_file=True
    )
    inputs = (
        tensor("x", section, shape),
        tensor("mask", replace(section, generated="mask", of="words", pad=0), shape, "BOOL"),
        tensor("sizes", TensorSection(0, generated="lengths", of="words"), ("b",), "INT64"),
    )
    outputs = (
        tensor("y", section, shape),
        tensor("m", section, shape, "BOOL"),
        tensor("n", TensorSection(0), ("b",), "INT64"),
    )
    return ModelSpec("m", 1, manifest, inputs, outputs, batched=True)


def words() -> ModelSpec:
    """x: up to 1,000 ids of type INT32 -> y."""
    manifest = Manifest(lengths={"words": LengthSection(1000)}, from_file=True)
    ids = tensor("x", TensorSection(0, {1: "words"}), ("b", "w"), "INT32")
    return ModelSpec("m", 1, manifest, (ids,), (tensor("y", TensorSection(0), ("b",)),), batched=True)


def two_lengths(**batching: Any) -> ModelSpec:
    """x with the length "source", z with the length "target"."""
    manifest = Manifest(
        lengths={"source": LengthSection(1000), "target": LengthSection(1000)},
        batching=BatchingSection(**batching),
        from_file=True,
    )
    inputs = (
        tensor("x", TensorSection(0, {1: "source"}), ("b", "s")),
        tensor("z", TensorSection(0, {1: "target"}), ("b", "t")),
    )
    return ModelSpec("m", 1, manifest, inputs, (tensor("y", TensorSection(0), ("b",)),), batched=True)


def plain(**batching: Any) -> ModelSpec:
    """x -> y, with batch axis 0 and no named length."""
    first = TensorSection(0)
    manifest = Manifest(batching=BatchingSection(**batching), from_file=True)
    return ModelSpec(
        "m", 1, manifest, (tensor("x", first, ("n", "m")),), (tensor("y", first, ("n", "m")),), batched=True
    )


ONE_ROW = RequestSize(1, (), 1)


def infer(key: int = 1, size: RequestSize = ONE_ROW, **more: Any) -> Infer:
    return Infer(key=key, model="m", version=1, inputs=more.pop("inputs", {}), size=size, **more)


def parts(spec: ModelSpec, inputs: dict[str, Any], **more: Any) -> list[RequestPart]:
    return split(QueuedRequest(infer(inputs=inputs, size=measure_request(spec, inputs), **more)), spec)


def part(length: int | tuple[int, ...] = 1, rows: int = 1, **more: Any) -> RequestPart:
    """A queued part without tensors."""
    lengths = length if isinstance(length, tuple) else (length,)
    group, start_tag = more.pop("group", None), more.pop("start_tag", 0.0)
    request = QueuedRequest(infer(**more))
    return RequestPart(
        request,
        0,
        {},
        rows,
        lengths,
        max(sum(lengths), 1),
        group,
        start_tag=start_tag,
    )
