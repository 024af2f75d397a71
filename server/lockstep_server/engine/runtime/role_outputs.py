"""Outputs of a run as their roles want them: vectors pooled over real elements, scores for each label.

outputs of the run, rows of each part → pooled and normalised, all rows at once → checked, also for NaN →
answers

Only parts whose request reads outputs by role are changed or checked. The tensor API gets what the graph
returns.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ErrorCode, ServingError
from .padding import sizes_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec, ModelTensor
    from .padding import RowGroup

    Array = np.ndarray[Any, Any]

_FEW_NUMBERS = 16
"""So many numbers are checked faster without NumPy."""

_SMALLEST_NORM = 1e-12  # as in torch.nn.functional.normalize


def by_role(
    spec: ModelSpec,
    outputs: Mapping[str, Array],
    parts: Sequence[RowGroup],
    answers: Sequence[Arrays],
    wanted: Sequence[Sequence[str]],
) -> list[Arrays | ServingError]:
    """The answer of each part, or why it has none.

    Args:
        outputs: of the run, the rows of `parts` first.
        answers: the outputs cut to each part.
        wanted: the names of the outputs that each part reads by role.

    Raises:
        ValueError: an output that is pooled does not have one element per real element of each row.
    """
    results: list[Arrays | ServingError] = list(answers)
    for tensor in filter(partial(has_role, spec), spec.outputs):
        readers = [index for index, names in enumerate(wanted) if tensor.name in names]
        if not readers:
            continue
        array = outputs[tensor.name]
        if tensor.spec.pooling or tensor.spec.normalise:
            array = _vectors(spec, tensor, array, parts)
            starts = np.cumsum([0, *(part.rows for part in parts)]).tolist()
            for index in readers:
                result = results[index]
                if not isinstance(result, ServingError):
                    result[tensor.name] = array[starts[index] : starts[index + 1]]
        if _is_sound(spec, tensor, array) and not _is_per_token(spec, tensor):
            continue
        for index in readers:
            result = results[index]
            if not isinstance(result, ServingError):
                wrong = fault(spec, tensor, result[tensor.name])
                if wrong is None and _is_per_token(spec, tensor):
                    wrong = _wrong_count(spec, tensor, result[tensor.name], parts[index])
                results[index] = wrong or result
    return results


def has_role(spec: ModelSpec, tensor: ModelTensor) -> bool:
    roles = spec.manifest.roles
    return tensor.name in (roles.scores, roles.vector, roles.attention)


def wrong_shape(spec: ModelSpec, tensor: ModelTensor, array: Array) -> str:
    """What is wrong with the shape of one request's value of an output with a role; "" if nothing is."""
    if _has_shape(spec, tensor, array):
        return ""
    is_scores = tensor.name == spec.manifest.roles.scores
    needed = f"{len(spec.manifest.labels)} scores, one per label" if is_scores else "one vector"
    return (
        f"output {tensor.name!r} of the model has the shape {list(array.shape)}, not {needed}; correct the"
        " manifest or the graph"
    )


def fault(spec: ModelSpec, tensor: ModelTensor, array: Array) -> ServingError | None:
    """Why one request's value of an output cannot be read by its role; None if it can."""
    if why := wrong_shape(spec, tensor, array):
        return ServingError(ErrorCode.FAILED, why)
    if _is_not_finite(spec, tensor, array):
        return ServingError(
            ErrorCode.FAILED,
            f"output {tensor.name!r} of the model is NaN or infinite for this input; no answer can be given",
        )
    return None


def with_best_labels(spec: ModelSpec, outputs: Arrays, names: Sequence[str]) -> Arrays:
    """The outputs of one request that reads `names` by role: of a CTC model, the index of the best score of
    each frame, in place of the scores."""
    scores = spec.manifest.roles.scores
    if not spec.transcribes or scores not in names:
        return outputs
    return {**outputs, scores: outputs[scores].argmax(axis=-1).astype(np.int32)}


def _is_per_token(spec: ModelSpec, tensor: ModelTensor) -> bool:
    return spec.classifies_tokens and tensor.name == spec.manifest.roles.scores


def _wrong_count(spec: ModelSpec, tensor: ModelTensor, array: Array, part: RowGroup) -> ServingError | None:
    """An unbatched graph may return any number of rows of scores; each must belong to a token."""
    for axis, name in tensor.spec.lengths.items():
        tokens = part.lengths[spec.length_names.index(name)]
        if array.shape[axis] != tokens:
            return ServingError(
                ErrorCode.FAILED,
                f"output {tensor.name!r} of the model has {array.shape[axis]} rows of scores for"
                f" {tokens} tokens; correct the graph",
            )
    return None


def _is_sound(spec: ModelSpec, tensor: ModelTensor, array: Array) -> bool:
    """Whether the output of a whole run is known to have no fault, padding included."""
    if array.dtype.kind not in "iub" and (array.dtype == np.float64 or not _is_finite(array)):
        return False
    return _has_shape(spec, tensor, array)


def _is_finite(array: Array) -> bool:
    if array.size <= _FEW_NUMBERS:
        return all(map(math.isfinite, array.ravel().tolist()))
    return bool(np.isfinite(array).all())


def _has_shape(spec: ModelSpec, tensor: ModelTensor, array: Array) -> bool:
    """Whether scores have one number per label and a vector has one axis, which the graph may leave open."""
    if tensor.name == spec.manifest.roles.vector:
        return array.ndim <= 2 or not tensor.any_rank
    of_tokens = spec.classifies_tokens
    if tensor.name == spec.manifest.roles.scores and spec.transcribes:
        return bool(array.shape[-1:] == (len(spec.manifest.labels),))
    if tensor.name != spec.manifest.roles.scores or not (of_tokens or spec.classifies):
        return True
    axis = tensor.spec.batch_axis or 0
    width = math.prod(array.shape[:axis] + array.shape[axis + 1 :])
    if of_tokens:
        width = array.shape[-1] if array.ndim == 3 else 0
    elif array.ndim == 1 and tensor.spec.batch_axis is None:
        width = array.size
    return width == len(spec.manifest.labels) or (width == 1 and spec.has_single_score)


def _is_not_finite(spec: ModelSpec, tensor: ModelTensor, array: Array) -> bool:
    """Whether the output holds NaN or an infinity, also once it is sent as float32.

    Scores of minus infinity rule out a label, as long as another one is left.
    """
    with np.errstate(over="ignore"):
        values = array.astype(np.float32)
    activation = "softmax" if spec.transcribes else spec.manifest.roles.activation
    if tensor.name != spec.manifest.roles.scores or activation == "none":
        return not np.isfinite(values).all()
    nothing_left = activation == "softmax" and values.size > 0 and (values.max(axis=-1) == -np.inf).any()
    return bool(np.isnan(values).any() or (values == np.inf).any() or nothing_left)


def pool(array: Array, lengths: Array, pooling: str) -> Array:
    """One vector per row of `array` [rows, words, width], from its first `lengths` [rows] words.

    It is float32 or float64. A row's vector does not depend on the padding, nor on the other rows.
    """
    array = array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)
    if pooling in ("first", "last"):
        chosen: Array = array[np.arange(len(lengths)), 0 if pooling == "first" else lengths - 1]
        return chosen
    # Row by row: six times as fast as a masked sum over all rows, which has to copy them.
    rows = [row[:length] for row, length in zip(array, lengths.tolist(), strict=True)]
    if pooling == "max":
        return np.stack([row.max(axis=0) for row in rows])
    mean: Array = np.stack([row.sum(axis=0) for row in rows]) / lengths[:, None].astype(array.dtype)
    return mean


def normalised(vectors: Array) -> Array:
    """Each row of [rows, width] scaled to length 1; a row of zeros stays as it is."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    scaled: Array = (vectors / np.maximum(norms, _SMALLEST_NORM)).astype(vectors.dtype)
    return scaled


def _vectors(spec: ModelSpec, tensor: ModelTensor, array: Array, parts: Sequence[RowGroup]) -> Array:
    """The vectors of the parts' rows, [rows, width]."""
    section, counts = tensor.spec, [part.rows for part in parts]
    rows = sum(counts)
    if section.pooling:
        ((axis, name),) = section.lengths.items()
        array = array if axis == 1 else np.moveaxis(array, axis, 1)
        lengths = np.repeat(sizes_of(spec, [name], [part.lengths for part in parts])[name], counts)
        if array.ndim != 3 or len(array) < rows or array.shape[1] < lengths.max():
            raise ValueError(
                f"output {tensor.name}: shape {array.shape} in a run of lengths {lengths.tolist()}"
            )
        vectors = pool(array[:rows], lengths, section.pooling)
    else:
        vectors = np.moveaxis(array, section.batch_axis or 0, 0)[:rows].reshape(rows, -1)
    return normalised(vectors) if section.normalise else vectors
