"""The states of sequences that step together, one row per sequence.

`StateBlock` holds up to `rows` sequences. Adding a sequence writes a vacant row, removing one clears its
row, and rows move only when their number changes. The states that one step returns are the next step's
inputs, without a copy. States with a named length (attention memory, a cache) are padded to a bucket. If
the self-test found that padding changes bits, a block holds only sequences of one bucket, so that batching
changes no bits; otherwise sequences of all lengths share a block. A length that the model must not have
padded (`ModelSpec.unpadded`) is equal in all rows of a block, and grows with each step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import bad_input
from ...model import datatypes
from ..runtime.batching import check_rows
from ..runtime.padding import constant

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec, ModelTensor, StateTensor
    from ..runtime.session import OnnxSession

    Array = np.ndarray[Any, Any]

_MIN_BUCKET = 16
"""Elements. Shorter lengths share this bucket."""

Lengths = dict[str, int]
"""The named lengths of one sequence."""

Key = tuple[tuple[str, int], ...]
"""The buckets of a sequence's named lengths. Sequences with equal keys may share a block."""


def bucket(count: int, minimum: int = 1) -> int:
    """The smallest power of two that is at least `count` and `minimum`."""
    return max(minimum, 1 << max(count - 1, 0).bit_length())


def key_of(spec: ModelSpec, lengths: Lengths) -> Key:
    """The key of a sequence with these lengths.

    A cache that fills its bucket needs the next one, because each step adds an element. For an unbatched
    model only caches are padded: its results may depend on padding. Lengths in `spec.unpadded` never are.
    """
    caches, bounds = growing_lengths(spec), spec.manifest.lengths
    return tuple(
        (name, min(bucket(lengths[name] + (name in caches), _MIN_BUCKET), bounds[name].max))
        if name not in spec.unpadded and (spec.batched or name in caches)
        else (name, lengths[name])
        for name in state_lengths(spec)
    )


def group_of(spec: ModelSpec, key: Key) -> Key:
    """The part of a key that is equal for all sequences of a block."""
    return tuple(item for item in key if item[0] in spec.unpadded) if spec.padding_invariant else key


def without_padding(spec: ModelSpec) -> ModelSpec:
    """The spec of a model that steps one sequence at a time, and pads nothing."""
    return replace(spec, batched=False, unpadded=state_lengths(spec))


def widest(one: Key, other: Key) -> Key:
    """The smallest key that holds sequences of both keys."""
    return tuple((name, max(size, more)) for (name, size), (_, more) in zip(one, other, strict=True))


def state_lengths(spec: ModelSpec) -> tuple[str, ...]:
    """The named lengths of the states, sorted."""
    return tuple(sorted({state.dynamic_axis[1] for state in spec.states if state.dynamic_axis}))


def growing_lengths(spec: ModelSpec) -> set[str]:
    """The named lengths that grow by one per step."""
    return {state.dynamic_axis[1] for state in spec.states if state.dynamic_axis and state.spec.grows}


def is_full(spec: ModelSpec, lengths: Lengths) -> bool:
    """Whether a cache has reached its maximum length, so that no further step is possible."""
    return any(lengths[name] >= spec.manifest.lengths[name].max for name in growing_lengths(spec))


def initial_states(spec: ModelSpec, prefilled: Arrays | None = None) -> Arrays:
    """The states of one sequence before its first step, by state name, one row each.

    Args:
        prefilled: the prefill graph's outputs for this sequence, without padding.
    """
    states = {}
    for state in spec.states:
        section = state.spec
        if prefilled is not None and section.prefill:
            states[section.name] = prefilled[section.prefill]
        elif state.first is not None:
            states[section.name] = state.first
        else:
            shape = _shape(state, 1, dict.fromkeys(section.lengths.values(), 0))
            states[section.name] = np.full(shape, section.initial, datatypes.NUMPY[state.datatype])
    return states


def lengths_of(spec: ModelSpec, states: Arrays) -> Lengths:
    """The named lengths of one sequence, read from the shapes of its states."""
    return {
        state.dynamic_axis[1]: states[state.spec.name].shape[state.dynamic_axis[0]]
        for state in spec.states
        if state.dynamic_axis
    }


class StateBlock:
    """The states of sequences that step together, one row each, padded to the lengths in `key`.

    Of lengths that must not be padded, all rows have that in `key`, which grows with each step.
    """

    def __init__(self, spec: ModelSpec, key: Key, rows: int) -> None:
        self.spec, self.key, self.rows = spec, key, rows
        self._size = dict(key)
        self._states = {state.spec.name: _zeros(state, rows, self._size) for state in spec.states}
        self._lengths = {name: np.ones(rows, np.int64) for name in self._size}
        self._masks = _masks(spec, rows, self._size)

    @property
    def nbytes(self) -> int:
        """The bytes of all rows' states, padding included."""
        return sum(array.nbytes for array in self._states.values())

    def write(self, row: int, states: Arrays, lengths: Lengths) -> None:
        """Write a sequence's states (one row each) into `row`."""
        for state in self.spec.states:
            array = self._states[state.spec.name]
            given = states[state.spec.name]
            place = _row_index(state, row)
            if state.dynamic_axis:
                array[place] = 0
                axis, name = state.dynamic_axis
                place = (*place[:axis], slice(lengths[name]), *place[axis + 1 :])
            array[place] = given
        for name in self._size:
            self._set_length(row, name, lengths[name])

    def take(self, row: int) -> Arrays:
        """Return a copy of the states of `row`, without padding."""
        states = {}
        for state in self.spec.states:
            place = _row_index(state, row)
            if state.dynamic_axis:
                axis, name = state.dynamic_axis
                place = (*place[:axis], slice(int(self._lengths[name][row])), *place[axis + 1 :])
            states[state.spec.name] = self._states[state.spec.name][place].copy()
        return states

    def clear(self, row: int) -> None:
        """Make `row` vacant. It keeps stepping with zeros, which no kernel computes slower than others."""
        for state in self.spec.states:
            self._states[state.spec.name][_row_index(state, row)] = 0
        for name in self._size:
            self._set_length(row, name, 1)  # one real element, so that a softmax over it is finite

    def gather(self, rows: Array, sources: Array) -> None:
        """Continue in `rows` the states of `sources`, which have the same lengths and unchanged states."""
        if (rows == sources).all():
            return
        for state in self.spec.states:
            if state.spec.output:
                array = self._states[state.spec.name]
                array[_row_index(state, rows)] = array[_row_index(state, sources)]

    def lengths(self, row: int) -> Lengths:
        return {name: int(counts[row]) for name, counts in self._lengths.items()}

    def is_full(self, row: int) -> bool:
        """Whether a cache of this row has no room for another element."""
        return any(self._lengths[name][row] >= self._most(name) for name in growing_lengths(self.spec))

    def _most(self, name: str) -> int:
        """The most elements of a cache that the block holds."""
        return self.spec.manifest.lengths[name].max if name in self.spec.unpadded else self._size[name]

    def needed_key(self, rows: Sequence[int]) -> Key:
        """The smallest key that holds these rows."""
        longest = {name: int(counts[rows].max(initial=1)) for name, counts in self._lengths.items()}
        return key_of(self.spec, longest)

    def resized(self, rows: int, kept: Sequence[int], key: Key | None = None) -> StateBlock:
        """Return a block of `rows` rows: those in `kept`, in this order, then vacant ones.

        Args:
            key: the new block's key, if it differs; it must hold the kept rows.
        """
        new = StateBlock(self.spec, key or self.key, rows)
        here, there = np.arange(len(kept)), np.asarray(kept, np.int64)
        for state in self.spec.states:
            name, to, source = state.spec.name, _row_index(state, here), _row_index(state, there)
            if state.dynamic_axis:
                axis, length = state.dynamic_axis
                both = slice(min(self._size[length], new._size[length]))
                to, source = (*to[:axis], both, *to[axis + 1 :]), (*source[:axis], both, *source[axis + 1 :])
            new._states[name][to] = self._states[name][source]
        for name, counts in self._lengths.items():
            new._lengths[name][here] = counts[there]
        new._update_masks()
        return new

    def step(self, session: OnnxSession, inputs: Mapping[str, Array]) -> Arrays:
        """Run one step of all rows and keep the new states. Returns the other outputs, by name.

        Raises:
            RowMismatch: an output or a state does not have one row per row of the block.
            Exception: whatever the session raises.
            The states have not changed then.
            ServingError: BAD_INPUT, a cache has not grown by one element.
        """
        feeds = dict(inputs)
        for state in self.spec.states:
            feeds[state.spec.input] = self._states[state.spec.name]
        for tensor in self.spec.inputs:
            if tensor.name in feeds:
                continue
            if tensor.spec.generated == "mask":
                feeds[tensor.name] = self._masks[tensor.name]
            elif tensor.spec.generated == "lengths":
                counts = self._lengths[tensor.spec.of]
                feeds[tensor.name] = counts.astype(datatypes.NUMPY[tensor.datatype])
            elif tensor.spec.generated == "positions":
                feeds[tensor.name] = self._positions(tensor)
            elif tensor.spec.value is not None:
                feeds[tensor.name] = constant(tensor, self.rows, self._size)
        outputs = _run(self.spec, session, feeds)
        for state in self.spec.states:
            if state.spec.output:
                check_rows(state.spec.output, outputs[state.spec.output], state.spec.batch_axis, self.rows)
            if state.spec.grows:
                self._check_grown(state, outputs[state.spec.output])
        scores = self.spec.manifest.roles.scores
        for tensor in self.spec.outputs:
            shared = self.rows > 1 or tensor.name == scores  # else the whole output is the answer
            if shared and tensor.spec.batch_axis is not None:
                check_rows(tensor.name, outputs[tensor.name], tensor.spec.batch_axis, self.rows)
        self._update_states(outputs)
        return outputs

    def _positions(self, tensor: ModelTensor) -> Array:
        """The position of each row's next element: the number of elements so far. That of a vacant row, which
        counts no further than the block's size, is a valid one."""
        counts, size = self._lengths[tensor.spec.of], self._size[tensor.spec.of]
        if tensor.spec.of not in self.spec.unpadded:
            counts = np.minimum(counts, size - 1)
        shape = [1] * max(len(tensor.shape), 1)
        shape[tensor.spec.batch_axis or 0] = -1
        return counts.astype(datatypes.NUMPY[tensor.datatype]).reshape(shape)

    def _check_grown(self, state: StateTensor, given: Array) -> None:
        assert state.dynamic_axis
        axis, name = state.dynamic_axis
        added = given.shape[axis] - self._size[name]
        if added != 1:
            why = f"a step added {added} elements to it; send one element of the sequence in a step"
            raise bad_input(f"state {state.spec.name}", why)

    def _update_states(self, outputs: Arrays) -> None:
        grown = set()
        for state in self.spec.states:
            section = state.spec
            if not section.output:
                continue
            given = outputs.pop(section.output)
            if section.grows and state.dynamic_axis:
                if state.dynamic_axis[1] not in self.spec.unpadded:
                    given = self._place_new_elements(state, given)
                grown.add(state.dynamic_axis[1])
            self._states[section.name] = given
        if grown:
            self._grow(grown)

    def _grow(self, names: set[str]) -> None:
        """Count the element that a step has added to every cache of these named lengths."""
        exact = names.intersection(self.spec.unpadded)
        for name in exact:
            self._size[name] += 1
        for name in names:
            self._lengths[name] += self._lengths[name] < self._size[name]
        if exact:
            self.key = tuple(sorted(self._size.items()))
            self._masks |= _masks(self.spec, self.rows, self._size, exact)
        self._update_masks()

    def _place_new_elements(self, state: StateTensor, given: Array) -> Array:
        """Cut a returned cache, which is one longer than its bucket, to its bucket: each row's new element
        moves from the end of the axis to the end of the row's real elements."""
        assert state.dynamic_axis
        axis, name = state.dynamic_axis
        size = self._size[name]
        front = np.moveaxis(given, (state.spec.batch_axis, axis), (0, 1))
        ends = np.minimum(self._lengths[name], size - 1)
        front[np.arange(self.rows), ends] = front[:, size]
        kept = [slice(None)] * given.ndim
        kept[axis] = slice(size)
        return np.ascontiguousarray(given[tuple(kept)])

    def _set_length(self, row: int, name: str, count: int) -> None:
        self._lengths[name][row] = count
        for tensor in self.spec.inputs:
            if tensor.spec.generated == "mask" and tensor.spec.of == name:
                mask, real = self._masks[tensor.name][:, : self._size[name]], tensor.spec.real
                mask[row] = (np.arange(mask.shape[1]) < count) == bool(real)

    def _update_masks(self) -> None:
        """Recompute the masks of all rows from their lengths."""
        for tensor in self.spec.inputs:
            if tensor.name in self._masks:
                mask, real = self._masks[tensor.name][:, : self._size[tensor.spec.of]], tensor.spec.real
                counts = self._lengths[tensor.spec.of]
                mask[:] = (np.arange(mask.shape[1]) < counts[:, None]) == bool(real)


def _shape(state: StateTensor, rows: int, size: Mapping[str, int]) -> list[int]:
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


def _zeros(state: StateTensor, rows: int, size: Mapping[str, int]) -> Array:
    return np.zeros(_shape(state, rows, size), datatypes.NUMPY[state.datatype])


def _run(spec: ModelSpec, session: OnnxSession, feeds: Arrays) -> Arrays:
    """The outputs of a step, by name: those that the spec has."""
    if not spec.fetched:
        return dict(zip(session.output_names, session.run(feeds), strict=True))
    return dict(zip(spec.fetched, session.run(feeds, spec.fetched), strict=True))


def _masks(spec: ModelSpec, rows: int, size: Mapping[str, int], names: Iterable[str] | None = None) -> Arrays:
    """The generated masks of vacant rows, each of which has one real element: all, or those of `names`."""
    masks = {}
    for tensor in spec.inputs:
        if tensor.spec.generated == "mask" and tensor.spec.of in (size if names is None else names):
            shape, real = (rows, size[tensor.spec.of] + tensor.spec.new), bool(tensor.spec.real)
            masks[tensor.name] = np.full(shape, not real, datatypes.NUMPY[tensor.datatype])
            masks[tensor.name][:, :1] = real
            if tensor.spec.new:
                masks[tensor.name][:, -1] = real
    return masks


def _row_index(state: StateTensor, row: int | Array) -> tuple[Any, ...]:
    """The index of one row, keeping its axis, or of several rows."""
    where: Any = slice(row, row + 1) if isinstance(row, int) else row
    axis = state.spec.batch_axis
    return (*(slice(None),) * axis, where, *(slice(None),) * (len(state.shape) - axis - 1))
