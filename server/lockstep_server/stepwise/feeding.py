"""Elements that callers sent: states gathered from where each sequence left them, one step, and back."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import port
from ..errors import ServingError, bad_input
from .slots import Block, bucket, growing, initial, is_full, key_of, lengths_of, widest

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from ..models.card import Card, TensorCard
    from ..models.datatypes import Arrays
    from ..models.session import Session
    from .sequence import Element
    from .slots import Key

    Array = np.ndarray[Any, Any]


class Answer(NamedTuple):
    """What became of one element: outputs, or an error."""

    element: Element
    outputs: Arrays | None
    error: Exception | None
    timings: port.Timings


def feed(
    card: Card,
    session: Session,
    elements: Sequence[Element],
    most_rows: int,
    clock: Callable[[], float],
    waited_s: float,
) -> tuple[list[Answer], list[port.Run]]:
    """One step of each element's sequence. A run that fails is run again one by one: the element
    that breaks it fails alone, and its sequence is as before."""
    runs: list[port.Run] = []
    answers = [Answer(one, None, _too_long(card), port.NO_TIMINGS) for one in elements if _full(card, one)]
    waiting = groups(card, (one for one in elements if not _full(card, one)), most_rows)
    while waiting:
        group = waiting.pop()
        begun, rows = clock(), len(group)
        try:
            outputs, states = run(card, session, group)
        except Exception as error:
            if rows > 1:
                waiting.extend([one] for one in group)
            else:
                answers.append(Answer(group[0], None, error, port.NO_TIMINGS))
            continue
        took = clock() - begun
        runs.append(port.Run(rows, 1, rows, bucket(rows), 0.0, took, 0.0, waited_s, "stepwise"))
        for element, given, state in zip(group, outputs, states, strict=True):
            element.of.states = state
            element.of.steps += 1
            timings = port.Timings(begun - element.accepted, took, 1, float(rows))
            answers.append(Answer(element, given, None, timings))
    return answers, runs


def _full(card: Card, element: Element) -> bool:
    states = element.of.states
    return states is not None and is_full(card, lengths_of(card, states))


def _too_long(card: Card) -> ServingError:
    name = min(growing(card), key=lambda one: card.manifest.lengths[one].max)
    longest = card.manifest.lengths[name].max
    return bad_input(name, f"the sequence has had {longest} steps, the model takes no more; start another")


def groups(card: Card, elements: Iterable[Element], most_rows: int) -> list[list[Element]]:
    """Those that may share a run: states of one bucket, inputs of one shape; `most_rows` each."""
    by_key: dict[Hashable, list[Element]] = {}
    for element in elements:
        conversation = element.of
        if conversation.states is None:
            conversation.states = initial(card)
        shapes = tuple((name, array.shape) for name, array in sorted(element.inputs.items()))
        key = () if card.pads_freely else key_of(card, lengths_of(card, conversation.states))
        by_key.setdefault((key, shapes), []).append(element)
    return [
        group[start : start + most_rows]
        for group in by_key.values()
        for start in range(0, len(group), most_rows)
    ]


def run(
    card: Card, session: Session, elements: Sequence[Element], key: Key | None = None
) -> tuple[list[Arrays], list[Arrays]]:
    """One step of one group: each one's outputs, and its states one step on.

    Args:
        key: what states are padded to; none is the bucket of the longest.

    Raises:
        Exception: whatever the session raises; no state has changed.
    """
    lengths = [lengths_of(card, _states(element)) for element in elements]
    rows = bucket(len(elements))
    block = Block(card, key or reduce(widest, (key_of(card, one) for one in lengths)), rows)
    for row, element in enumerate(elements):
        block.write(row, _states(element), lengths[row])
    feeds = {
        tensor.name: _stack(tensor, [element.inputs[tensor.name] for element in elements], rows)
        for tensor in card.inputs
        if tensor.name in elements[0].inputs
    }
    outputs = block.step(session, feeds)
    answers = [
        {tensor.name: _cut(tensor, outputs[tensor.name], row, lengths[row]) for tensor in card.outputs}
        for row in range(len(elements))
    ]
    return answers, [block.take(row) for row in range(len(elements))]


def _states(element: Element) -> Arrays:
    assert element.of.states is not None
    return element.of.states


def _stack(tensor: TensorCard, arrays: list[Array], rows: int) -> Array:
    """The vacant rows are the first one again: real data, in every range."""
    axis = tensor.words.batch_axis
    if axis is None or (len(arrays) == 1 and rows == 1):
        return arrays[0]
    return np.concatenate(arrays + [arrays[0]] * (rows - len(arrays)), axis)


def _cut(tensor: TensorCard, array: Array, row: int, lengths: dict[str, int]) -> Array:
    axis = tensor.words.batch_axis
    if axis is None:
        return array
    index: list[slice] = [slice(None)] * array.ndim
    index[axis] = slice(row, row + 1)
    for a, name in tensor.words.lengths.items():
        if name in lengths:
            index[a] = slice(lengths[name])
    return array[tuple(index)].copy()
