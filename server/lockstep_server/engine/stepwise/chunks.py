"""Chunks of elements in one step: the lengths of each row, and rows of different lengths in one run.

A chunk is what a step takes of an input whose axis has a named length, such as frames of sound. Chunks are
padded to the longest of a run, and the outputs of each row are cut to its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..runtime import padding
from .slots import bucket

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    import numpy as np

    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec

    Array = np.ndarray[Any, Any]


class Chunk(NamedTuple):
    """The inputs of one step of one sequence; a `padding.RowGroup`."""

    inputs: Arrays
    rows: int
    lengths: tuple[int, ...]


def chunk_of(spec: ModelSpec, inputs: Arrays) -> Chunk:
    """A step's inputs, with the lengths of its chunk; 0 for those that are none of a chunk."""
    found = dict.fromkeys(spec.length_names, 0)
    for tensor in spec.inputs:
        if tensor.spec.lengths and tensor.name in inputs:
            for axis, name in tensor.spec.lengths.items():
                found[name] = inputs[tensor.name].shape[axis]
    return Chunk(inputs, 1, tuple(found.values()))


def group_key(spec: ModelSpec, inputs: Arrays) -> Hashable:
    """Steps of one key may share a run: their inputs differ in nothing but the lengths of chunks, if those
    may be padded, and not much in these."""
    if not (spec.chunks_padded and spec.chunk_lengths):
        return tuple((name, array.shape) for name, array in sorted(inputs.items()))
    axes = {tensor.name: tensor.spec.lengths for tensor in spec.inputs}
    return tuple(
        (
            name,
            tuple(bucket(size) if axis in axes[name] else size for axis, size in enumerate(array.shape)),
        )
        for name, array in sorted(inputs.items())
    )


def most_rows(spec: ModelSpec, inputs: Arrays, max_rows: int) -> int:
    """The most steps like this one that may share a run."""
    if not spec.chunk_lengths:
        return max_rows
    size = bucket(max(sum(chunk_of(spec, inputs).lengths), 1))
    return max(min(max_rows, spec.manifest.batching.max_padded_elements // size), 1)


def feeds(spec: ModelSpec, chunks: Sequence[Chunk], rows: int) -> Arrays:
    """The inputs of a run of `rows` rows, those after the chunks vacant: padded to the longest chunk, with
    the masks and lengths that describe chunks."""
    names, spare = spec.chunk_lengths, rows - len(chunks)
    size = dict(zip(spec.length_names, longest(chunks), strict=True))
    made = {}
    for tensor in spec.inputs:
        if tensor.name in chunks[0].inputs:
            arrays = [chunk.inputs[tensor.name] for chunk in chunks]
            made[tensor.name] = padding.stack_input(tensor, arrays, size, spare)
        elif tensor.spec.generated and tensor.spec.of in names:
            made[tensor.name] = padding.generate(spec, tensor, chunks, size, spare)
    return made


def longest(chunks: Sequence[Chunk]) -> tuple[int, ...]:
    return tuple(max(column) for column in zip(*(chunk.lengths for chunk in chunks), strict=True))


def check_outputs(spec: ModelSpec, outputs: Mapping[str, Array], lengths: tuple[int, ...]) -> None:
    """
    Raises:
        ValueError: an output has another length than the manifest says, or computes from the longest chunk.
    """
    chunk_names = set(spec.chunk_lengths)
    for tensor in spec.outputs:
        for axis, name in tensor.spec.lengths.items():
            if spec.manifest.sources(name) <= chunk_names:
                expected = padding.sizes_of(spec, [name], [lengths])[name][0]
                size = outputs[tensor.name].shape[axis]
                if size != expected:
                    raise ValueError(f"output {tensor.name}: axis {axis} is {size}, not {expected}")


def own_lengths(spec: ModelSpec, chunk: Chunk) -> dict[str, int]:
    """The lengths of the outputs of one step, by name, as far as they are those of its chunk."""
    chunk_names = set(spec.chunk_lengths)
    used = {name for tensor in spec.outputs for name in tensor.spec.lengths.values()}
    wanted = [name for name in used if spec.manifest.sources(name) <= chunk_names]
    return {name: sizes[0] for name, sizes in padding.sizes_of(spec, wanted, [chunk.lengths]).items()}
