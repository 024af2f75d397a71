"""Reads the first values of states that the manifest names as files: `.npy` → `StateTensor.first`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import LoadError
from ...model import datatypes

if TYPE_CHECKING:
    from ...model.spec import ModelSpec, StateTensor
    from .repository import RepositoryEntry


def with_first_values(spec: ModelSpec, entry: RepositoryEntry) -> ModelSpec:
    """The spec with the arrays of the files that its states name.

    Raises:
        LoadError: a file is missing, is no array, or does not fit its state.
    """
    if not any(state.spec.file for state in spec.states):
        return spec
    states = (_read(state, spec, entry) if state.spec.file else state for state in spec.states)
    return replace(spec, states=tuple(states))


def _read(state: StateTensor, spec: ModelSpec, entry: RepositoryEntry) -> StateTensor:
    section = state.spec
    place = f"{entry.manifest_path}: stepwise.state[{section.name}].file"
    try:
        first: np.ndarray[Any, Any] = np.load(entry.referenced_file(section.file), allow_pickle=False)
    except LoadError as error:
        raise LoadError(f"{place}: {error}") from error
    except (OSError, ValueError, EOFError) as error:
        why = f"{section.file!r} is no array; write it with numpy.save"
        raise LoadError(f"{place}: {why}", str(error)) from error
    wanted = datatypes.NUMPY[state.datatype]
    if first.dtype != wanted:
        raise LoadError(
            f"{place}: {section.file!r} has type {first.dtype}, the state has {wanted}; convert it"
        )
    fits = first.ndim == len(state.shape) and all(
        size == _size(state, spec, axis, size) for axis, size in enumerate(first.shape)
    )
    if not fits:
        shape = ["1" if axis == section.batch_axis else str(size) for axis, size in enumerate(state.shape)]
        why = f"{section.file!r} has shape {list(first.shape)}, the state of one sequence has"
        raise LoadError(f"{place}: {why} [{', '.join(shape)}]; save one row of that shape")
    return replace(state, first=first)


def _size(state: StateTensor, spec: ModelSpec, axis: int, given: int) -> int | str | None:
    """The size that an axis must have."""
    if axis == state.spec.batch_axis:
        return 1
    if axis in state.spec.lengths:
        return min(given, spec.manifest.lengths[state.spec.lengths[axis]].max)
    return state.shape[axis]
