"""Joins a graph with its manifest: one-shot graphs, and the parts that step-wise graphs share.

`GraphSignature` + `Manifest` → `make_spec` → `ModelSpec`, or the key that does not fit
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import LoadError
from . import datatypes, numbers, roles
from .manifest import Manifest, TensorSection
from .spec import GraphSignature, GraphTensor, ModelSpec, ModelTensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


def make_spec(name: str, version: int, graph: GraphSignature, manifest: Manifest, file: str) -> ModelSpec:
    """Join a one-shot graph with its manifest. `file` is the manifest's path for errors.

    Raises:
        LoadError: the protocol does not support a tensor's type, or the manifest does not match the graph.
    """
    inputs = tuple(bind_tensor(t, manifest.inputs, f"{file}: inputs") for t in graph.inputs)
    outputs = tuple(bind_tensor(t, manifest.outputs, f"{file}: outputs") for t in graph.outputs)
    check_names(manifest.inputs, graph.inputs, f"{file}: inputs")
    check_names(manifest.outputs, graph.outputs, f"{file}: outputs")
    if not manifest.from_file:
        inputs, outputs = infer_batch_axis(inputs, outputs)
    numbers.check_generated_lengths(inputs, manifest, f"{file}: inputs")
    spec = ModelSpec(name, version, manifest, inputs, outputs, model=name)
    _check_roles(spec, file)
    return spec


def bind_tensor(tensor: GraphTensor, sections: Mapping[str, TensorSection], place: str) -> ModelTensor:
    """Join a graph's tensor with its section of the manifest. `place` is the prefix of errors.

    Raises:
        LoadError: the protocol does not support its type, or an axis does not match the manifest.
    """
    converted = datatypes.from_onnx(tensor.onnx_type)
    if converted is None:
        raise LoadError(
            f"{place}.{tensor.name}: type {tensor.onnx_type} is not supported by the Open Inference Protocol;"
            " convert it to a supported tensor type inside the graph"
        )
    datatype, optional = converted
    section = sections.get(tensor.name, TensorSection())
    shape = tuple(section.sizes.get(axis, size) for axis, size in enumerate(tensor.shape))
    spec = ModelTensor(tensor.name, datatype, shape, optional or tensor.optional, section)
    _check_sizes(tensor, section, place)
    _check_axes(spec, place)
    numbers.check_numbers(spec, place)
    return spec


def _check_axes(tensor: ModelTensor, place: str) -> None:
    section, rank = tensor.spec, len(tensor.shape)
    axes = [*section.lengths, *([] if section.batch_axis is None else [section.batch_axis])]
    for axis in axes:
        if axis >= rank:
            raise LoadError(
                f"{place}.{tensor.name}: axis {axis} does not exist; the tensor has {rank} axes in the graph"
            )
        if isinstance(tensor.shape[axis], int):
            raise LoadError(
                f"{place}.{tensor.name}: axis {axis} is fixed to {tensor.shape[axis]} in the graph;"
                " export the model with a dynamic axis, or remove the axis from the manifest"
            )


def _check_sizes(tensor: GraphTensor, section: TensorSection, place: str) -> None:
    """Check the sizes that the manifest gives to axes of the graph, and that a constant has no other."""
    place = f"{place}.{tensor.name}"
    for axis, size in section.sizes.items():
        if axis >= len(tensor.shape):
            why = f"axis {axis} does not exist; the tensor has {len(tensor.shape)} axes in the graph"
            raise LoadError(f"{place}.sizes: {why}")
        if isinstance(tensor.shape[axis], int) and tensor.shape[axis] != size:
            why = f"axis {axis} is fixed to {tensor.shape[axis]} in the graph; remove it from the manifest"
            raise LoadError(f"{place}.sizes: {why}")
    if section.value is None:
        return
    for axis, known in enumerate(tensor.shape):
        if not (isinstance(known, int) or axis in (section.batch_axis, *section.lengths, *section.sizes)):
            raise LoadError(
                f"{place}.value: the size of axis {axis} is unknown; write it: sizes = {{{axis} = 1}},"
                f" or batch_axis = {axis} if it is that of the rows"
            )


def check_names(section: Iterable[str], tensors: Sequence[GraphTensor], place: str) -> None:
    """Check that the graph has every tensor that a section of the manifest names.

    Raises:
        LoadError: it has no such tensor.
    """
    names = [tensor.name for tensor in tensors]
    for name in section:
        if name not in names:
            raise LoadError(f"{place}.{name}: no such tensor in the graph; available: {', '.join(names)}")


def _check_roles(spec: ModelSpec, file: str) -> None:
    name = spec.manifest.roles.input
    if name and spec.input(name) is None:
        inputs = ", ".join(tensor.name for tensor in spec.inputs)
        raise LoadError(f"{file}: roles.input: the graph has no input {name!r}; available: {inputs}")
    if spec.reads_text and not spec.text_input:
        raise LoadError(f"{file}: roles.input: missing; name the input that takes the token ids")
    roles.check_outputs(spec, file)
    roles.check_text_input(spec, file)


def infer_batch_axis(
    inputs: tuple[ModelTensor, ...], outputs: tuple[ModelTensor, ...]
) -> tuple[tuple[ModelTensor, ...], tuple[ModelTensor, ...]]:
    """Make axis 0 the batch axis of all tensors if it has the same symbol on all of them. An input of fixed
    shape, or without axes, may be the same for all rows: it gets no batch axis."""
    batched = [t for t in inputs if not all(isinstance(axis, int) for axis in t.shape)]
    first_axes = {tensor.shape[0] if tensor.shape else None for tensor in (*batched, *outputs)}
    if not batched or len(first_axes) != 1 or not isinstance(next(iter(first_axes)), str):
        return inputs, outputs
    section = TensorSection(batch_axis=0)
    return (
        tuple(replace(t, spec=section) if t in batched else t for t in inputs),
        tuple(replace(t, spec=section) for t in outputs),
    )
