"""The states of sequences that step together, row by row, where the session runs.

A `Block` holds up to `rows` sequences. A joiner is written into a vacant row, a leaver's row goes
vacant, rows are moved only when their number changes; what one step gives is what the next one takes,
without a copy. What has a named length (attention memory, a cache) is padded to a bucket. Where the
self-test found that padding changes bits, it is the bucket of the sequence itself, never of a
neighbour, so that company changes none; else sequences of all lengths share a block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...model import datatypes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec, StateTensor
    from ..runtime.session import OnnxSession

    Array = np.ndarray[Any, Any]

_LEAST_BUCKET = 16
"""Elements: shorter ones share this bucket."""

Lengths = dict[str, int]
"""A sequence's own named lengths."""

Key = tuple[tuple[str, int], ...]
"""The buckets of its named lengths: sequences of one key may share a block."""


def bucket(count: int, least: int = 1) -> int:
    """The smallest power of two that holds `count`, `least` at least."""
    return max(least, 1 << max(count - 1, 0).bit_length())


def key_of(spec: ModelSpec, lengths: Lengths) -> Key:
    """Whose block a sequence of these lengths belongs to.

    A cache that is full needs the next bucket: each step adds an element. Where sequences step alone
    nothing else is padded: it may be padding that the model cannot bear.
    """
    caches, bounds = growing(spec), spec.manifest.lengths
    names = {state.named[1] for state in spec.states if state.named}
    return tuple(
        (name, min(bucket(lengths[name] + (name in caches), _LEAST_BUCKET), bounds[name].max))
        if spec.batched or name in caches
        else (name, lengths[name])
        for name in sorted(names)
    )


def widest(one: Key, other: Key) -> Key:
    """What holds sequences of either key."""
    return tuple((name, max(size, more)) for (name, size), (_, more) in zip(one, other, strict=True))


def growing(spec: ModelSpec) -> set[str]:
    """The named lengths that a step adds one to."""
    return {state.named[1] for state in spec.states if state.named and state.spec.grows}


def is_full(spec: ModelSpec, lengths: Lengths) -> bool:
    """A cache is as long as it may be: there is no further step."""
    return any(lengths[name] >= spec.manifest.lengths[name].max for name in growing(spec))


def initial(spec: ModelSpec, prefilled: Arrays | None = None) -> Arrays:
    """The states of one sequence before its first step, one row each, by the states' names.

    Args:
        prefilled: the prefill graph's outputs for this sequence, cut to its own lengths.
    """
    states = {}
    for state in spec.states:
        section = state.spec
        if prefilled is not None and section.prefill:
            states[section.name] = prefilled[section.prefill]
        else:
            shape = _shape(state, 1, dict.fromkeys(section.lengths.values(), 0))
            states[section.name] = np.full(shape, section.initial, datatypes.NUMPY[state.datatype])
    return states


def lengths_of(spec: ModelSpec, states: Arrays) -> Lengths:
    """The named lengths that one sequence's states have."""
    return {
        state.named[1]: states[state.spec.name].shape[state.named[0]] for state in spec.states if state.named
    }


class StateBlock:
    """Rows that step together.

    `step` takes the elements and gives the outputs; `write`, `take` and `clear` are a row's coming
    and going; `resized` gives another number of rows.
    """

    def __init__(self, spec: ModelSpec, key: Key, rows: int) -> None:
        self.spec, self.key, self.rows = spec, key, rows
        self._size = dict(key)
        self._states = {state.spec.name: _zeros(state, rows, self._size) for state in spec.states}
        self._lengths = {name: np.ones(rows, np.int64) for name in self._size}
        self._masks = {
            tensor.name: _mask(tensor.spec.real, tensor.datatype, rows, self._size[tensor.spec.of])
            for tensor in spec.inputs
            if tensor.spec.generated == "mask"
        }

    def write(self, row: int, states: Arrays, lengths: Lengths) -> None:
        """Put a sequence's states (one row each) into `row`."""
        for state in self.spec.states:
            array = self._states[state.spec.name]
            given = states[state.spec.name]
            place = _row(state, row)
            if state.named:
                array[place] = 0
                axis, name = state.named
                place = (*place[:axis], slice(lengths[name]), *place[axis + 1 :])
            array[place] = given
        for name in self._size:
            self._set_length(row, name, lengths[name])

    def take(self, row: int) -> Arrays:
        """A copy of the states of `row`, cut to its own lengths."""
        states = {}
        for state in self.spec.states:
            place = _row(state, row)
            if state.named:
                axis, name = state.named
                place = (*place[:axis], slice(int(self._lengths[name][row])), *place[axis + 1 :])
            states[state.spec.name] = self._states[state.spec.name][place].copy()
        return states

    def clear(self, row: int) -> None:
        """Nobody is in `row`: it goes on with zeros, which cost no kernel more than numbers do."""
        for state in self.spec.states:
            self._states[state.spec.name][_row(state, row)] = 0
        for name in self._size:
            self._set_length(row, name, 1)  # one real element, so that a softmax over it is finite

    def lengths(self, row: int) -> Lengths:
        return {name: int(counts[row]) for name, counts in self._lengths.items()}

    def full(self, row: int) -> bool:
        """A cache of this row has no room for another element."""
        return any(self._lengths[name][row] >= self._size[name] for name in growing(self.spec))

    def needed(self, rows: Sequence[int]) -> Key:
        """The key that the longest of these rows wants."""
        longest = {name: int(counts[rows].max(initial=1)) for name, counts in self._lengths.items()}
        return key_of(self.spec, longest)

    def resized(self, rows: int, kept: Sequence[int], key: Key | None = None) -> StateBlock:
        """A block of `rows` rows: those in `kept` first, in this order, then vacant ones. Of another
        `key`, if it is given: it must hold them."""
        new = StateBlock(self.spec, key or self.key, rows)
        here, there = np.arange(len(kept)), np.asarray(kept, np.int64)
        for state in self.spec.states:
            name, to, source = state.spec.name, _row(state, here), _row(state, there)
            if state.named:
                axis, length = state.named
                both = slice(min(self._size[length], new._size[length]))
                to, source = (*to[:axis], both, *to[axis + 1 :]), (*source[:axis], both, *source[axis + 1 :])
            new._states[name][to] = self._states[name][source]
        for name, counts in self._lengths.items():
            new._lengths[name][here] = counts[there]
        new._mark()
        return new

    def step(self, session: OnnxSession, elements: Mapping[str, Array]) -> Arrays:
        """One step of all rows: the outputs by name, and the states one step on.

        Raises:
            Exception: whatever the session raises; the states are then as before.
        """
        feeds = dict(elements)
        for state in self.spec.states:
            feeds[state.spec.input] = self._states[state.spec.name]
        for tensor in self.spec.inputs:
            if tensor.spec.generated == "mask":
                feeds[tensor.name] = self._masks[tensor.name]
            elif tensor.spec.generated == "lengths":
                counts = self._lengths[tensor.spec.of]
                feeds[tensor.name] = counts.astype(datatypes.NUMPY[tensor.datatype])
        outputs = dict(zip(session.output_names, session.run(feeds), strict=True))
        self._advance(outputs)
        return outputs

    def _advance(self, outputs: Arrays) -> None:
        grown = set()
        for state in self.spec.states:
            section = state.spec
            if not section.output:
                continue
            given = outputs.pop(section.output)
            if section.grows and state.named:
                given = self._grown(state, given)
                grown.add(state.named[1])
            self._states[section.name] = given
        for name in grown:
            counts = self._lengths[name]
            counts += counts < self._size[name]
            self._mark()

    def _grown(self, state: StateTensor, given: Array) -> Array:
        """A cache came back one longer than its bucket: each row's new element, at the end, goes to
        the end of the row's own elements."""
        assert state.named
        axis, name = state.named
        size = self._size[name]
        front = np.moveaxis(given, (state.spec.batch_axis, axis), (0, 1))
        own = np.minimum(self._lengths[name], size - 1)
        front[np.arange(self.rows), own] = front[:, size]
        kept = [slice(None)] * given.ndim
        kept[axis] = slice(size)
        return np.ascontiguousarray(given[tuple(kept)])

    def _set_length(self, row: int, name: str, count: int) -> None:
        self._lengths[name][row] = count
        for tensor in self.spec.inputs:
            if tensor.spec.generated == "mask" and tensor.spec.of == name:
                mask, real = self._masks[tensor.name], tensor.spec.real
                mask[row] = (np.arange(mask.shape[1]) < count) == bool(real)

    def _mark(self) -> None:
        """Every row's mask, from the lengths."""
        for tensor in self.spec.inputs:
            if tensor.spec.generated == "mask":
                mask, real = self._masks[tensor.name], tensor.spec.real
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


def _mask(real: float, datatype: str, rows: int, size: int) -> Array:
    mask = np.full((rows, size), not real, datatypes.NUMPY[datatype])
    mask[:, 0] = bool(real)
    return mask


def _row(state: StateTensor, row: int | Array) -> tuple[Any, ...]:
    """The index of a row, its axis kept; or of several rows."""
    where: Any = slice(row, row + 1) if isinstance(row, int) else row
    axis = state.spec.batch_axis
    return (*(slice(None),) * axis, where, *(slice(None),) * (len(state.shape) - axis - 1))
