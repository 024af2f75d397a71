"""The states of a block in arrays of the host: one array per state, with a row for each sequence.

Rows are written, taken, moved and cleared by index. The arrays that one step returns are the next step's
inputs, without a copy. Caches are written in place. `device_states.py` does the same on a device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...model import datatypes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec, StateTensor
    from ..runtime.session import OnnxSession

    Array = np.ndarray[Any, Any]

Lengths = dict[str, int]
"""Named lengths: of one sequence, or of a block."""


class HostStates:
    """The states of `rows` rows, padded to the named lengths `size`; at first zero."""

    def __init__(self, spec: ModelSpec, rows: int, size: Mapping[str, int]) -> None:
        self._spec, self._rows = spec, rows
        self.arrays = {state.spec.name: zeros(state, rows, size) for state in spec.states}

    @property
    def nbytes(self) -> int:
        """The bytes of all rows."""
        return sum(array.nbytes for array in self.arrays.values())

    def write(self, row: int, states: Arrays, lengths: Lengths) -> None:
        """Write a sequence's states (one row each) into `row`, with zeros behind its own lengths."""
        for state in self._spec.states:
            array, place = self.arrays[state.spec.name], row_index(state, row)
            if state.dynamic_axis:
                array[place] = 0
                place = _until(state, place, lengths)
            array[place] = states[state.spec.name]

    def take(self, row: int, lengths: Lengths) -> Arrays:
        """Return a copy of the states of `row`, cut to its lengths."""
        return {
            state.spec.name: self.arrays[state.spec.name][
                _until(state, row_index(state, row), lengths)
            ].copy()
            for state in self._spec.states
        }

    def clear(self, row: int) -> None:
        """Set `row` to zero."""
        for state in self._spec.states:
            self.arrays[state.spec.name][row_index(state, row)] = 0

    def gather(self, rows: Array, sources: Array) -> None:
        """Copy the rows `sources` to `rows`, of the states that a step changes."""
        for state in self._spec.states:
            if state.spec.output:
                array = self.arrays[state.spec.name]
                array[row_index(state, rows)] = array[row_index(state, sources)]

    def resized(self, rows: int, kept: Array, size: Mapping[str, int]) -> HostStates:
        """The states of `rows` rows: those in `kept`, in this order, then vacant ones; of length `size`."""
        new = HostStates.__new__(HostStates)
        new._spec, new._rows = self._spec, rows
        new.arrays = {
            state.spec.name: _resized(state, self.arrays[state.spec.name], rows, kept, size)
            for state in self._spec.states
        }
        return new

    def put(self, rows: Array, other: HostStates) -> None:
        """Replace `rows` by the first rows of `other`, of the states that a step changes."""
        for state in self._spec.states:
            if state.spec.output:
                first = row_index(state, slice(len(rows)))
                self.arrays[state.spec.name][row_index(state, rows)] = other.arrays[state.spec.name][first]

    # --- a step -------------------------------------------------------------------------------------

    def run(self, session: OnnxSession, feeds: Arrays, on_device: str = "") -> dict[str, Any]:  # noqa: ARG002
        """Run a step graph on these states and other inputs. Returns all outputs, by name.

        Args:
            on_device: an output that stays on the device, if the states are there, until the next step.
        """
        feeds.update(zip(self._spec.state_inputs, self.arrays.values(), strict=True))
        names = self._spec.fetched or session.output_names
        return dict(zip(names, session.run(feeds, names), strict=True))

    def advance(self, given: Mapping[str, Array], ends: Mapping[str, Array]) -> None:
        """Replace states by those that a step returned, by name.

        Args:
            ends: for each named length along which padded caches grow, where the new element of each row
                belongs. Other caches grow equally in all rows.
        """
        if not self._spec.growing_lengths:
            self.arrays.update(given)
            return
        for state in self._spec.states:
            name = state.spec.name
            if name not in given:
                continue
            held, new = self.arrays[name], given[name]
            if state.spec.grows and state.dynamic_axis:
                axis, length = state.dynamic_axis
                if length in ends:
                    new = self._appended(state, held, new, ends[length])
                elif new.shape[axis] <= held.shape[axis]:  # the new element alone
                    new = np.concatenate([held, new], axis)
            self.arrays[name] = new

    def _appended(self, state: StateTensor, held: Array, given: Array, ends: Array) -> Array:
        """The cache with the last element of `given` at place `ends` of each row. The cache is written in
        place, unless `given` has its elements too, and a step may change them."""
        axis, _ = state.dynamic_axis or (0, "")
        size = held.shape[axis]
        if given.shape[axis] > size and not self._spec.keeps_elements:
            kept = [slice(None)] * given.ndim
            kept[axis] = slice(size)
            held = np.ascontiguousarray(given[tuple(kept)])
        places = np.moveaxis(held, (state.spec.batch_axis, axis), (0, 1))
        places[np.arange(self._rows), ends] = np.moveaxis(given, (state.spec.batch_axis, axis), (0, 1))[:, -1]
        return held


def _resized(state: StateTensor, array: Array, rows: int, kept: Array, size: Mapping[str, int]) -> Array:
    axis = state.spec.batch_axis
    if state.dynamic_axis and array.shape[state.dynamic_axis[0]] > size[state.dynamic_axis[1]]:
        array = array[_until(state, (slice(None),) * array.ndim, size)]
    fits = not state.dynamic_axis or array.shape[state.dynamic_axis[0]] == size[state.dynamic_axis[1]]
    if fits and rows == len(kept):
        return array.take(kept, axis)
    new = zeros(state, rows, size)
    place = row_index(state, slice(len(kept)))
    if state.dynamic_axis:
        place = _until(state, place, {state.dynamic_axis[1]: array.shape[state.dynamic_axis[0]]})
    new[place] = array.take(kept, axis)
    return new


def shape_of(state: StateTensor, rows: int, size: Mapping[str, int]) -> list[int]:
    """The shape of the states of `rows` rows."""
    shape: list[int] = []
    for axis, fixed in enumerate(state.shape):
        if axis == state.spec.batch_axis:
            shape.append(rows)
        elif axis in state.spec.lengths:
            shape.append(size[state.spec.lengths[axis]])
        else:
            assert isinstance(fixed, int)
            shape.append(fixed)
    return shape


def zeros(state: StateTensor, rows: int, size: Mapping[str, int]) -> Array:
    """The states of vacant rows."""
    return np.zeros(shape_of(state, rows, size), datatypes.NUMPY[state.datatype])


def row_index(state: StateTensor, row: int | slice | Array) -> tuple[Any, ...]:
    """The index of one row, keeping its axis, or of several rows."""
    where: Any = slice(row, row + 1) if isinstance(row, int) else row
    axis = state.spec.batch_axis
    return (*(slice(None),) * axis, where, *(slice(None),) * (len(state.shape) - axis - 1))


def _until(state: StateTensor, place: tuple[Any, ...], lengths: Mapping[str, int]) -> tuple[Any, ...]:
    """An index that ends at the named length of the state."""
    if not state.dynamic_axis:
        return place
    axis, name = state.dynamic_axis
    return (*place[:axis], slice(lengths[name]), *place[axis + 1 :])
