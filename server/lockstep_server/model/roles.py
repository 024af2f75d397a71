"""The checks of what a model's outputs mean, which `spec.py` and `step_spec.py` call when it is loaded."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..errors import LoadError
from . import datatypes
from .manifest import CTC_TASK, GENERATIVE_TASKS, TOKEN_TASK

if TYPE_CHECKING:
    from .spec import ModelSpec, ModelTensor

_MOST_SCORE_AXES = 3
_OUTPUT_ROLES = ("scores", "vector", "attention")


def has_open_row(tensor: ModelTensor) -> bool:
    """Whether the graph leaves open an axis beside those of the rows and of named lengths."""
    axes = set(range(len(tensor.shape))) - {_batch_axis(tensor), *tensor.spec.lengths}
    return not tensor.shape or any(not isinstance(tensor.shape[axis], int) for axis in axes)


def check_outputs(spec: ModelSpec, file: str) -> None:
    """Check that each output with a role exists and has the shape that the role needs.

    Raises:
        LoadError: it has not. Names the key and how to fix it.
    """
    roles = spec.manifest.roles
    graph = "step graph" if spec.is_stepwise else "graph"
    for role in _OUTPUT_ROLES:
        name = getattr(roles, role)
        if not name:
            continue
        tensor = spec.output(name)
        if tensor is None:
            names = ", ".join(one.name for one in spec.outputs)
            raise LoadError(f"{file}: roles.{role}: the {graph} has no output {name!r}; available: {names}")
        if tensor.datatype not in datatypes.EXACT_INTEGERS:
            raise LoadError(
                f"{file}: roles.{role}: output {name!r} is {tensor.datatype}; name an output of numbers"
            )
    _check_scores(spec, file)
    if roles.vector and not spec.is_stepwise:
        _check_vector(spec, file)
    attention = spec.output(roles.attention)
    if attention is not None and attention.spec.batch_axis not in (0, None) and not spec.is_stepwise:
        raise LoadError(
            f"{file}: roles.attention: axis {attention.spec.batch_axis} of output {attention.name!r} is the"
            " batch axis; make it axis 0 in the graph"
        )


def check_text_input(spec: ModelSpec, file: str) -> None:
    """Check that the input of token ids can take the ids of a text as one row.

    Raises:
        LoadError: it cannot.
    """
    tensor = spec.text_tensor
    if tensor is None or not spec.reads_text:
        return
    place = f"{file}: inputs.{tensor.name}"
    if tensor.datatype not in datatypes.EXACT_INTEGERS:
        raise LoadError(f"{place}: {tensor.datatype} cannot hold token ids; use an integer type in the graph")
    rank, batch_axis = len(tensor.shape), tensor.spec.batch_axis
    if rank > 2 or (rank == 1 and batch_axis is not None):
        raise LoadError(
            f"{place}: shape {shape_of(tensor)} does not hold the ids of a text as one row; make it"
            " [batch, words] in the graph"
        )


def check_next_scores(spec: ModelSpec, place: str) -> None:
    """Check that scores of the next token are [batch, vocabulary], or have one time axis beside these:
    the last position counts. `place` is the prefix of errors.

    Raises:
        LoadError: the shape is another one, or rows of different lengths cannot be distinguished.
    """
    tensor, text = spec.output(spec.manifest.roles.scores), spec.text_tensor
    if tensor is None or not tensor.shape:
        return
    place, batch_axis = f"{place}.{tensor.name}", tensor.spec.batch_axis
    if len(tensor.shape) > _MOST_SCORE_AXES or batch_axis == len(tensor.shape) - 1:
        raise LoadError(
            f"{place}: shape {shape_of(tensor)} holds no scores of the next token; make it"
            " [batch, vocabulary] or [batch, sequence, vocabulary] in the graph"
        )
    _check_position(tensor, place)
    if (
        spec.is_stepwise
        or text is None
        or text.spec.batch_axis is None
        or len(tensor.shape) < _MOST_SCORE_AXES
    ):
        return
    axis = 0 if batch_axis == 1 else 1
    name = _text_length(spec)
    if tensor.shape[axis] != 1 and (name is None or tensor.spec.lengths.get(axis) != name):
        raise LoadError(
            f"{place}.lengths: axis {axis} of {shape_of(tensor)} needs the named length of the input"
            f" {text.name!r}, so that the last real position of each row is known: set lengths on both, such"
            f' as {{{axis} = "{name or "prompt"}"}}'
        )


def _check_position(tensor: ModelTensor, place: str) -> None:
    """Check that the scores have the position that counts."""
    position, batch_axis = tensor.spec.position, tensor.spec.batch_axis
    if position == -1:
        return
    if len(tensor.shape) < _MOST_SCORE_AXES:
        raise LoadError(f"{place}.position: {shape_of(tensor)} has no axis of positions; remove this key")
    size = tensor.shape[0 if batch_axis == 1 else 1]
    if isinstance(size, int) and not -size <= position < size:
        raise LoadError(
            f"{place}.position: {shape_of(tensor)} has no position {position}; use {-size} to {size - 1}"
        )


def _check_scores(spec: ModelSpec, file: str) -> None:
    manifest = spec.manifest
    tensor = spec.output(manifest.roles.scores)
    if tensor is None or manifest.task in GENERATIVE_TASKS:
        return
    if not manifest.labels and manifest.task == "tensor":
        return  # no RPC reads the scores
    if not manifest.labels:
        raise LoadError(
            f"{file}: labels: missing; list the labels in the order of the scores {tensor.name!r}"
        )
    if manifest.task == CTC_TASK:
        _check_frame_scores(spec, tensor, file)
        return
    if manifest.task == TOKEN_TASK and not spec.is_stepwise:
        _check_token_scores(spec, tensor, file)
        return
    if element := _per_element(spec, tensor):
        raise LoadError(
            f"{file}: roles.scores: output {tensor.name!r} {shape_of(tensor)} has scores for each of"
            f' {element!r}, and task "classify" needs one row of scores for a text. For labels per word, set'
            f' task = "{TOKEN_TASK}"; else return [batch, labels] from the graph'
        )
    sizes = _row_shape(tensor)
    if all(isinstance(size, int) for size in sizes):
        _check_width(spec, math.prod(size for size in sizes if isinstance(size, int)), file)


def _check_token_scores(spec: ModelSpec, tensor: ModelTensor, file: str) -> None:
    lengths = tensor.spec.lengths
    if len(tensor.shape) != 3 or list(lengths.values()) != [_text_length(spec)] or 2 in lengths:
        raise LoadError(
            f"{file}: roles.scores: output {tensor.name!r} {shape_of(tensor)} needs the shape [batch, words,"
            f" labels] and the named length of the text input {spec.text_input!r}: set lengths on both,"
            f' such as outputs.{tensor.name}.lengths = {{1 = "words"}}'
        )
    width = tensor.shape[-1]
    if isinstance(width, int):
        _check_width(spec, width, file)


def _check_frame_scores(spec: ModelSpec, tensor: ModelTensor, file: str) -> None:
    """Scores of a CTC model are [batch, frames, labels]; of a step, also [batch, labels]."""
    rank, of_step = len(tensor.shape), spec.is_stepwise and len(tensor.shape) == 2
    last_is_free = tensor.spec.batch_axis != rank - 1 and rank - 1 not in tensor.spec.lengths
    batched_without = rank == 3 and tensor.spec.batch_axis is not None and not tensor.spec.lengths
    if not last_is_free or not (rank == 3 or of_step) or (batched_without and not spec.is_stepwise):
        raise LoadError(
            f"{file}: roles.scores: output {tensor.name!r} {shape_of(tensor)} needs the shape [batch, frames,"
            " labels], with the length of its frames, such as"
            f' outputs.{tensor.name}.lengths = {{1 = "frames"}} or {{1 = "ceil(samples / 320)"}}'
        )
    width = tensor.shape[-1]
    if isinstance(width, int):
        _check_width(spec, width, file)


def _check_width(spec: ModelSpec, width: int, file: str) -> None:
    labels, scores = len(spec.manifest.labels), spec.manifest.roles.scores
    if width != labels and not (width == 1 and spec.has_single_score):
        raise LoadError(
            f"{file}: labels: {labels} labels for the {width} scores of output {scores!r};"
            " list one label per score"
        )


def _check_vector(spec: ModelSpec, file: str) -> None:
    tensor = spec.output(spec.manifest.roles.vector)
    assert tensor is not None
    place = f"{file}: outputs.{tensor.name}"
    if tensor.spec.pooling:
        lengths = tensor.spec.lengths
        if len(tensor.shape) != 3 or list(lengths.values()) != [_text_length(spec)] or 2 in lengths:
            raise LoadError(
                f"{place}.pooling: output {tensor.name!r} {shape_of(tensor)} needs the shape [batch, words,"
                f" width] and the named length of the text input {spec.text_input!r}:"
                ' lengths = {1 = "words"}'
            )
    elif element := _per_element(spec, tensor):
        raise LoadError(
            f"{place}.pooling: missing; output {tensor.name!r} {shape_of(tensor)} has a vector for each of"
            f' {element!r}, and roles.vector needs one for a text: set pooling = "mean", "first", "last" or'
            ' "max"'
        )


def _text_length(spec: ModelSpec) -> str | None:
    """The named length of the text input."""
    tensor = spec.text_tensor
    return next(iter(tensor.spec.lengths.values()), None) if tensor is not None else None


def _per_element(spec: ModelSpec, output: ModelTensor) -> str:
    """The axis along which an output varies with the text, by its name; "" if its rows have one size.

    The axis of a named length does, and an axis with the symbol of an axis of the inputs. Beside them, one
    axis of unknown size may be the labels or the vector's dimensions.
    """
    varying = {size for tensor in spec.inputs for size in _row_shape(tensor) if isinstance(size, str)}
    batch_axis = _batch_axis(output)
    unknown = []
    for axis, size in enumerate(output.shape):
        if axis in output.spec.lengths:
            return output.spec.lengths[axis]
        if axis != batch_axis and not isinstance(size, int):
            if size in varying:
                return str(size)
            unknown.append(str(size or f"axis {axis}"))
    return unknown[0] if unknown and len(output.shape) > 2 else ""


def _batch_axis(tensor: ModelTensor) -> int | None:
    """The batch axis; without one in the manifest, axis 0 of a tensor with several axes."""
    declared = tensor.spec.batch_axis
    return 0 if declared is None and len(tensor.shape) > 1 else declared


def _row_shape(tensor: ModelTensor) -> list[int | str | None]:
    """The shape without the batch axis."""
    batch_axis = _batch_axis(tensor)
    return [size for axis, size in enumerate(tensor.shape) if axis != batch_axis] or [None]


def shape_of(tensor: ModelTensor) -> str:
    """The shape for messages: `[batch, ?, 4]`."""
    return "[" + ", ".join(str("?" if size is None else size) for size in tensor.shape) + "]"
