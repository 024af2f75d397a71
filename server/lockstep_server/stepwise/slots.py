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

from ..models import datatypes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..models.card import Card, StateCard
    from ..models.datatypes import Arrays
    from ..models.session import Session

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


def key_of(card: Card, lengths: Lengths) -> Key:
    """Whose block a sequence of these lengths belongs to.

    A cache that is full needs the next bucket: each step adds an element. Where sequences step alone
    nothing else is padded: it may be padding that the model cannot bear.
    """
    caches, bounds = growing(card), card.manifest.lengths
    names = {state.named[1] for state in card.states if state.named}
    return tuple(
        (name, min(bucket(lengths[name] + (name in caches), _LEAST_BUCKET), bounds[name].max))
        if card.batched or name in caches
        else (name, lengths[name])
        for name in sorted(names)
    )


def widest(one: Key, other: Key) -> Key:
    """What holds sequences of either key."""
    return tuple((name, max(size, more)) for (name, size), (_, more) in zip(one, other, strict=True))


def growing(card: Card) -> set[str]:
    """The named lengths that a step adds one to."""
    return {state.named[1] for state in card.states if state.named and state.words.grows}


def is_full(card: Card, lengths: Lengths) -> bool:
    """A cache is as long as it may be: there is no further step."""
    return any(lengths[name] >= card.manifest.lengths[name].max for name in growing(card))


def initial(card: Card, prefilled: Arrays | None = None) -> Arrays:
    """The states of one sequence before its first step, one row each, by the states' names.

    Args:
        prefilled: the prefill graph's outputs for this sequence, cut to its own lengths.
    """
    states = {}
    for state in card.states:
        words = state.words
        if prefilled is not None and words.prefill:
            states[words.name] = prefilled[words.prefill]
        else:
            shape = _shape(state, 1, dict.fromkeys(words.lengths.values(), 0))
            states[words.name] = np.full(shape, words.initial, datatypes.NUMPY[state.datatype])
    return states


def lengths_of(card: Card, states: Arrays) -> Lengths:
    """The named lengths that one sequence's states have."""
    return {
        state.named[1]: states[state.words.name].shape[state.named[0]] for state in card.states if state.named
    }


class Block:
    """Rows that step together.

    `step` takes the elements and gives the outputs; `write`, `take` and `clear` are a row's coming
    and going; `resized` gives another number of rows.
    """

    def __init__(self, card: Card, key: Key, rows: int) -> None:
        self.card, self.key, self.rows = card, key, rows
        self._size = dict(key)
        self._states = {state.words.name: _zeros(state, rows, self._size) for state in card.states}
        self._lengths = {name: np.ones(rows, np.int64) for name in self._size}
        self._masks = {
            tensor.name: _mask(tensor.words.real, tensor.datatype, rows, self._size[tensor.words.of])
            for tensor in card.inputs
            if tensor.words.generated == "mask"
        }

    def write(self, row: int, states: Arrays, lengths: Lengths) -> None:
        """Put a sequence's states (one row each) into `row`."""
        for state in self.card.states:
            array = self._states[state.words.name]
            given = states[state.words.name]
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
        for state in self.card.states:
            place = _row(state, row)
            if state.named:
                axis, name = state.named
                place = (*place[:axis], slice(int(self._lengths[name][row])), *place[axis + 1 :])
            states[state.words.name] = self._states[state.words.name][place].copy()
        return states

    def clear(self, row: int) -> None:
        """Nobody is in `row`: it goes on with zeros, which cost no kernel more than numbers do."""
        for state in self.card.states:
            self._states[state.words.name][_row(state, row)] = 0
        for name in self._size:
            self._set_length(row, name, 1)  # one real element, so that a softmax over it is finite

    def lengths(self, row: int) -> Lengths:
        return {name: int(counts[row]) for name, counts in self._lengths.items()}

    def full(self, row: int) -> bool:
        """A cache of this row has no room for another element."""
        return any(self._lengths[name][row] >= self._size[name] for name in growing(self.card))

    def needed(self, rows: Sequence[int]) -> Key:
        """The key that the longest of these rows wants."""
        longest = {name: int(counts[rows].max(initial=1)) for name, counts in self._lengths.items()}
        return key_of(self.card, longest)

    def resized(self, rows: int, kept: Sequence[int], key: Key | None = None) -> Block:
        """A block of `rows` rows: those in `kept` first, in this order, then vacant ones. Of another
        `key`, if it is given: it must hold them."""
        new = Block(self.card, key or self.key, rows)
        here, there = np.arange(len(kept)), np.asarray(kept, np.int64)
        for state in self.card.states:
            name, to, source = state.words.name, _row(state, here), _row(state, there)
            if state.named:
                axis, length = state.named
                both = slice(min(self._size[length], new._size[length]))
                to, source = (*to[:axis], both, *to[axis + 1 :]), (*source[:axis], both, *source[axis + 1 :])
            new._states[name][to] = self._states[name][source]
        for name, counts in self._lengths.items():
            new._lengths[name][here] = counts[there]
        new._mark()
        return new

    def step(self, session: Session, elements: Mapping[str, Array]) -> Arrays:
        """One step of all rows: the outputs by name, and the states one step on.

        Raises:
            Exception: whatever the session raises; the states are then as before.
        """
        feeds = dict(elements)
        for state in self.card.states:
            feeds[state.words.input] = self._states[state.words.name]
        for tensor in self.card.inputs:
            if tensor.words.generated == "mask":
                feeds[tensor.name] = self._masks[tensor.name]
            elif tensor.words.generated == "lengths":
                counts = self._lengths[tensor.words.of]
                feeds[tensor.name] = counts.astype(datatypes.NUMPY[tensor.datatype])
        outputs = dict(zip(session.output_names, session.run(feeds), strict=True))
        self._advance(outputs)
        return outputs

    def _advance(self, outputs: Arrays) -> None:
        grown = set()
        for state in self.card.states:
            words = state.words
            if not words.output:
                continue
            given = outputs.pop(words.output)
            if words.grows and state.named:
                given = self._grown(state, given)
                grown.add(state.named[1])
            self._states[words.name] = given
        for name in grown:
            counts = self._lengths[name]
            counts += counts < self._size[name]
            self._mark()

    def _grown(self, state: StateCard, given: Array) -> Array:
        """A cache came back one longer than its bucket: each row's new element, at the end, goes to
        the end of the row's own elements."""
        assert state.named
        axis, name = state.named
        size = self._size[name]
        front = np.moveaxis(given, (state.words.batch_axis, axis), (0, 1))
        own = np.minimum(self._lengths[name], size - 1)
        front[np.arange(self.rows), own] = front[:, size]
        kept = [slice(None)] * given.ndim
        kept[axis] = slice(size)
        return np.ascontiguousarray(given[tuple(kept)])

    def _set_length(self, row: int, name: str, count: int) -> None:
        self._lengths[name][row] = count
        for tensor in self.card.inputs:
            if tensor.words.generated == "mask" and tensor.words.of == name:
                mask, real = self._masks[tensor.name], tensor.words.real
                mask[row] = (np.arange(mask.shape[1]) < count) == bool(real)

    def _mark(self) -> None:
        """Every row's mask, from the lengths."""
        for tensor in self.card.inputs:
            if tensor.words.generated == "mask":
                mask, real = self._masks[tensor.name], tensor.words.real
                counts = self._lengths[tensor.words.of]
                mask[:] = (np.arange(mask.shape[1]) < counts[:, None]) == bool(real)


def _shape(state: StateCard, rows: int, size: Mapping[str, int]) -> list[int]:
    shape: list[int] = []
    for axis, fixed in enumerate(state.shape):
        if axis == state.words.batch_axis:
            shape.append(rows)
        elif axis in state.words.lengths:
            shape.append(size[state.words.lengths[axis]])
        else:
            assert isinstance(fixed, int)
            shape.append(fixed)
    return shape


def _zeros(state: StateCard, rows: int, size: Mapping[str, int]) -> Array:
    return np.zeros(_shape(state, rows, size), datatypes.NUMPY[state.datatype])


def _mask(real: float, datatype: str, rows: int, size: int) -> Array:
    mask = np.full((rows, size), not real, datatypes.NUMPY[datatype])
    mask[:, 0] = bool(real)
    return mask


def _row(state: StateCard, row: int | Array) -> tuple[Any, ...]:
    """The index of a row, its axis kept; or of several rows."""
    where: Any = slice(row, row + 1) if isinstance(row, int) else row
    axis = state.words.batch_axis
    return (*(slice(None),) * axis, where, *(slice(None),) * (len(state.shape) - axis - 1))
