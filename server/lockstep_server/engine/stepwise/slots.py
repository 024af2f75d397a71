"""The states of sequences that step together, one row per sequence.

`StateBlock` holds up to `rows` sequences. Adding a sequence writes a vacant row, removing one clears its
row, and rows move only when their number changes (`host_states.py`). States with a named length (attention
memory, a cache) are padded to a bucket. If the self-test found that padding changes bits, a block holds only
sequences of one bucket, so that batching changes no bits; otherwise sequences of all lengths share a block.
A length that the model must not have padded (`ModelSpec.unpadded`) is equal in all rows of a block, and
grows with each step. Client sequences, of which every step has others, keep a row of a `StatePool` meanwhile.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import bad_input
from ...model import datatypes
from ..runtime.batching import check_rows
from ..runtime.padding import constant
from .device_states import DeviceStates, make_states
from .host_states import HostStates, Lengths, shape_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec, ModelTensor
    from ..runtime.session import OnnxSession
    from .device_states import StateGraphs

    Array = np.ndarray[Any, Any]

_MIN_BUCKET = 16
"""Elements. Shorter lengths share this bucket."""

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
    caches, bounds = spec.growing_lengths, spec.manifest.lengths
    return tuple(
        (name, min(bucket(lengths[name] + (name in caches), _MIN_BUCKET), bounds[name].max))
        if name not in spec.unpadded and (spec.batched or name in caches)
        else (name, lengths[name])
        for name in spec.state_lengths
    )


def group_of(spec: ModelSpec, key: Key) -> Key:
    """The part of a key that is equal for all sequences of a block."""
    return tuple(item for item in key if item[0] in spec.unpadded) if spec.padding_invariant else key


def without_padding(spec: ModelSpec) -> ModelSpec:
    """The spec of a model that steps one sequence at a time, and pads nothing."""
    return replace(spec, batched=False, unpadded=spec.state_lengths)


def widest(one: Key, other: Key) -> Key:
    """The smallest key that holds sequences of both keys."""
    return tuple((name, max(size, more)) for (name, size), (_, more) in zip(one, other, strict=True))


def is_full(spec: ModelSpec, lengths: Lengths) -> bool:
    """Whether a cache has reached its maximum length, so that no further step is possible."""
    return any(lengths[name] >= spec.manifest.lengths[name].max for name in spec.growing_lengths)


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
            shape = shape_of(state, 1, dict.fromkeys(section.lengths.values(), 0))
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

    Of lengths that must not be padded, all rows have that in `key`, which grows with each step. The states
    are on the device of `graphs`, or in arrays of the host.
    """

    def __init__(
        self,
        spec: ModelSpec,
        key: Key,
        rows: int,
        graphs: StateGraphs | None = None,
        states: HostStates | DeviceStates | None = None,
    ) -> None:
        self.spec, self.key, self.rows, self._graphs = spec, key, rows, graphs
        self._size = dict(key)
        # Both kinds have the same methods, and a block meets only blocks of its own kind.
        self._states: Any = states or make_states(spec, rows, self._size, graphs)
        self._lengths = {name: np.ones(rows, np.int64) for name in self._size}
        self._masks = _masks(spec, rows, self._size)
        self._with_rows, self._own_rows = _with_rows(spec, rows), (rows,)

    @property
    def nbytes(self) -> int:
        """The bytes of all rows' states, padding included."""
        held: int = self._states.nbytes
        return held

    def write(self, row: int, states: Arrays, lengths: Lengths) -> None:
        """Write a sequence's states (one row each) into `row`."""
        self._states.write(row, states, lengths)
        for name in self._size:
            self._set_length(row, name, lengths[name])

    def take(self, row: int) -> Arrays:
        """Return a copy of the states of `row`, without padding."""
        states: Arrays = self._states.take(row, self.lengths(row))
        return states

    def clear(self, row: int) -> None:
        """Make `row` vacant. It keeps stepping with zeros, which no kernel computes slower than others."""
        self._states.clear(row)
        for name in self._size:
            self._set_length(row, name, 1)  # one real element, so that a softmax over it is finite

    def gather(self, rows: Array, sources: Array) -> None:
        """Continue in `rows` the states of `sources`, which have the same lengths and unchanged states."""
        if not (rows == sources).all():
            self._states.gather(rows, sources)

    def put(self, rows: Array, other: StateBlock) -> None:
        """Replace `rows` by the first rows of another block, which has no named lengths either."""
        self._states.put(rows, other._states)

    def lengths(self, row: int) -> Lengths:
        return {name: int(counts[row]) for name, counts in self._lengths.items()}

    def full_rows(self) -> Array:
        """Whether a cache of each row has no room for another element, bool [rows]."""
        full = np.zeros(self.rows, bool)
        for name in self.spec.growing_lengths:
            full |= self._lengths[name] >= self._most(name)
        return full

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
        key, sources = key or self.key, np.asarray(kept, np.int64)
        states = self._states.resized(rows, sources, dict(key))
        new = StateBlock(self.spec, key, rows, self._graphs, states)
        for name, counts in self._lengths.items():
            new._lengths[name][: len(sources)] = counts[sources]
        new._update_masks()
        return new

    def step(self, session: OnnxSession, inputs: Mapping[str, Array], on_device: str = "") -> dict[str, Any]:
        """Run one step of all rows and keep the new states. Returns the other outputs, by name.

        Args:
            on_device: the output that is returned as a value on the device, valid until the next step.

        Raises:
            RowMismatch: an output or a state does not have one row per row of the block.
            Exception: whatever the session raises.
            The states have not changed then.
            ServingError: BAD_INPUT, a cache has not grown by one element.
        """
        feeds = dict(inputs)
        for tensor in self.spec.filled_inputs:
            if tensor.name in feeds:
                continue
            if tensor.spec.generated == "mask":
                feeds[tensor.name] = self._masks[tensor.name]
            elif tensor.spec.generated == "lengths":
                counts = self._lengths[tensor.spec.of]
                feeds[tensor.name] = counts.astype(datatypes.NUMPY[tensor.datatype])
            elif tensor.spec.generated == "positions":
                feeds[tensor.name] = self._positions(tensor)
            else:
                feeds[tensor.name] = constant(tensor, self.rows, self._size)
        outputs: dict[str, Any] = self._states.run(session, feeds, on_device)
        for name, axis in self._with_rows:
            if outputs[name].shape[axis : axis + 1] != self._own_rows:
                check_rows(name, outputs[name], axis, self.rows)
        if self.spec.growing_lengths:
            self._check_grown(outputs)
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

    def _check_grown(self, outputs: Arrays) -> None:
        for state in self.spec.states:
            if not (state.spec.grows and state.dynamic_axis):
                continue
            axis, name = state.dynamic_axis
            given = outputs[state.spec.output].shape[axis]
            if given not in (1, self._size[name] + 1):
                added = given - self._size[name]
                why = f"a step added {added} elements to it; send one element of the sequence in a step"
                raise bad_input(f"state {state.spec.name}", why)

    def _update_states(self, outputs: dict[str, Any]) -> None:
        given = {state.name: outputs.pop(state.output) for state in self.spec.changed_states}
        if not self.spec.growing_lengths:
            self._states.advance(given, {})
            return
        ends = {
            name: np.minimum(self._lengths[name], self._size[name] - 1)
            for name in self.spec.growing_lengths
            if name not in self.spec.unpadded
        }
        self._states.advance(given, ends)
        self._grow()

    def _grow(self) -> None:
        """Count the element that a step has added to every cache."""
        names = self.spec.growing_lengths
        exact = set(names).intersection(self.spec.unpadded)
        for name in exact:
            self._size[name] += 1
        for name in names:
            self._lengths[name] += self._lengths[name] < self._size[name]
        if exact:
            self.key = tuple(sorted(self._size.items()))
            self._masks |= _masks(self.spec, self.rows, self._size, exact)
            self._update_masks()
            return
        for tensor in self.spec.inputs:
            if tensor.name in self._masks and tensor.spec.of in names:
                ends = self._lengths[tensor.spec.of] - 1
                self._masks[tensor.name][np.arange(self.rows), ends] = bool(tensor.spec.real)

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


def _with_rows(spec: ModelSpec, rows: int) -> list[tuple[str, int]]:
    """The outputs that have a row for each row of a block, and the axis of each."""
    found = [(state.output, state.batch_axis) for state in spec.changed_states]
    for tensor in spec.outputs:
        shared = rows > 1 or tensor.name == spec.manifest.roles.scores  # else the whole output is the answer
        if shared and tensor.spec.batch_axis is not None:
            found.append((tensor.name, tensor.spec.batch_axis))
    return found


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


class StatePool:
    """The states of client sequences between their steps, a row each, so that those of a step are gathered
    and scattered by index. Only for states without named lengths. Not thread-safe, except `free`."""

    def __init__(self, spec: ModelSpec, graphs: StateGraphs | None = None) -> None:
        self._spec, self._graphs = spec, graphs
        self._clear()

    def _clear(self) -> None:
        self._block, self._vacant = StateBlock(self._spec, (), 1, self._graphs), [0]

    def add(self, states: Arrays) -> PoolRow:
        """Keep the states of a new sequence until the row that is returned is deleted."""
        if not self._vacant:
            rows = self._block.rows
            self._block = self._block.resized(2 * rows, range(rows))
            self._vacant += range(rows, 2 * rows)
        row = PoolRow(self, self._vacant.pop())
        self._block.write(row.index, states, {})
        return row

    def take(self, row: PoolRow) -> Arrays:
        """Return a copy of a sequence's states."""
        return self._block.take(row.index)

    def gather(self, sequences: Sequence[PoolRow], rows: int) -> StateBlock:
        """A block of `rows` rows with copies of these sequences' states, in order, then vacant rows."""
        return self._block.resized(rows, [row.index for row in sequences])

    def scatter(self, sequences: Sequence[PoolRow], block: StateBlock) -> None:
        """Keep the states that a step left in the first rows of a block."""
        self._block.put(np.array([row.index for row in sequences]), block)

    def free(self, index: int) -> None:
        """Use a row again. A pool without sequences gives its memory back."""
        self._vacant.append(index)
        if not self.used:
            self._clear()

    @property
    def used(self) -> int:
        """The number of sequences."""
        return self._block.rows - len(self._vacant)


class PoolRow:
    """A sequence's row of a pool, which is free when nothing refers to it any more."""

    __slots__ = ("index", "pool")

    def __init__(self, pool: StatePool, index: int) -> None:
        self.pool, self.index = pool, index

    def __del__(self) -> None:
        self.pool.free(self.index)
