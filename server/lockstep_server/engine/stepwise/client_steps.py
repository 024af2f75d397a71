"""Elements that callers sent: states gathered from where each sequence left them, one step, and back."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ... import messages
from ...errors import ServingError, bad_input
from .slots import StateBlock, bucket, growing, initial, is_full, key_of, lengths_of, widest

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec, ModelTensor
    from ..runtime.session import OnnxSession
    from .sequence import StepRequest
    from .slots import Key

    Array = np.ndarray[Any, Any]


class StepAnswer(NamedTuple):
    """What became of one element: outputs, or an error."""

    element: StepRequest
    outputs: Arrays | None
    error: Exception | None
    timings: messages.RequestTimings


def feed(
    spec: ModelSpec,
    session: OnnxSession,
    elements: Sequence[StepRequest],
    most_rows: int,
    clock: Callable[[], float],
    waited_s: float,
) -> tuple[list[StepAnswer], list[messages.Run]]:
    """One step of each element's sequence. A run that fails is run again one by one: the element
    that breaks it fails alone, and its sequence is as before."""
    runs: list[messages.Run] = []
    answers = [
        StepAnswer(one, None, _too_long(spec), messages.NO_TIMINGS) for one in elements if _full(spec, one)
    ]
    waiting = groups(spec, (one for one in elements if not _full(spec, one)), most_rows)
    while waiting:
        group = waiting.pop()
        begun, rows = clock(), len(group)
        try:
            outputs, states = run(spec, session, group)
        except Exception as error:
            if rows > 1:
                waiting.extend([one] for one in group)
            else:
                answers.append(StepAnswer(group[0], None, error, messages.NO_TIMINGS))
            continue
        took = clock() - begun
        runs.append(messages.Run(rows, 1, rows, bucket(rows), 0.0, took, 0.0, waited_s, "stepwise"))
        for element, given, state in zip(group, outputs, states, strict=True):
            element.of.states = state
            element.of.steps += 1
            timings = messages.RequestTimings(begun - element.accepted, took, 1, float(rows))
            answers.append(StepAnswer(element, given, None, timings))
    return answers, runs


def _full(spec: ModelSpec, element: StepRequest) -> bool:
    states = element.of.states
    return states is not None and is_full(spec, lengths_of(spec, states))


def _too_long(spec: ModelSpec) -> ServingError:
    name = min(growing(spec), key=lambda one: spec.manifest.lengths[one].max)
    longest = spec.manifest.lengths[name].max
    return bad_input(name, f"the sequence has had {longest} steps, the model takes no more; start another")


def groups(spec: ModelSpec, elements: Iterable[StepRequest], most_rows: int) -> list[list[StepRequest]]:
    """Those that may share a run: states of one bucket, inputs of one shape; `most_rows` each."""
    by_key: dict[Hashable, list[StepRequest]] = {}
    for element in elements:
        client_sequence = element.of
        if client_sequence.states is None:
            client_sequence.states = initial(spec)
        shapes = tuple((name, array.shape) for name, array in sorted(element.inputs.items()))
        key = () if spec.pads_freely else key_of(spec, lengths_of(spec, client_sequence.states))
        by_key.setdefault((key, shapes), []).append(element)
    return [
        group[start : start + most_rows]
        for group in by_key.values()
        for start in range(0, len(group), most_rows)
    ]


def run(
    spec: ModelSpec, session: OnnxSession, elements: Sequence[StepRequest], key: Key | None = None
) -> tuple[list[Arrays], list[Arrays]]:
    """One step of one group: each one's outputs, and its states one step on.

    Args:
        key: what states are padded to; none is the bucket of the longest.

    Raises:
        Exception: whatever the session raises; no state has changed.
    """
    lengths = [lengths_of(spec, _states(element)) for element in elements]
    rows = bucket(len(elements))
    block = StateBlock(spec, key or reduce(widest, (key_of(spec, one) for one in lengths)), rows)
    for row, element in enumerate(elements):
        block.write(row, _states(element), lengths[row])
    feeds = {
        tensor.name: _stack(tensor, [element.inputs[tensor.name] for element in elements], rows)
        for tensor in spec.inputs
        if tensor.name in elements[0].inputs
    }
    outputs = block.step(session, feeds)
    answers = [
        {tensor.name: _cut(tensor, outputs[tensor.name], row, lengths[row]) for tensor in spec.outputs}
        for row in range(len(elements))
    ]
    return answers, [block.take(row) for row in range(len(elements))]


def _states(element: StepRequest) -> Arrays:
    assert element.of.states is not None
    return element.of.states


def _stack(tensor: ModelTensor, arrays: list[Array], rows: int) -> Array:
    """The vacant rows are the first one again: real data, in every range."""
    axis = tensor.spec.batch_axis
    if axis is None or (len(arrays) == 1 and rows == 1):
        return arrays[0]
    return np.concatenate(arrays + [arrays[0]] * (rows - len(arrays)), axis)


def _cut(tensor: ModelTensor, array: Array, row: int, lengths: dict[str, int]) -> Array:
    axis = tensor.spec.batch_axis
    if axis is None:
        return array
    index: list[slice] = [slice(None)] * array.ndim
    index[axis] = slice(row, row + 1)
    for a, name in tensor.spec.lengths.items():
        if name in lengths:
            index[a] = slice(lengths[name])
    return array[tuple(index)].copy()
