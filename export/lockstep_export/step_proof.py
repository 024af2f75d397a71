"""Proves a step-wise face: ragged sequences step together, and each answers as it would alone.

step        after each element, and now and then along a row of hundreds, against the module given the
            beginning up to it, whole and alone: for a face that was derived
in company  after each element, outputs and states, against the step given the row alone: for a step that
            its author wrote
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lockstep_export.contract import InputContract
from lockstep_export.graph_module import GraphModule
from lockstep_export.onnx_graph import Arrays
from lockstep_export.parity import Difference, failed_run, gap, scales
from lockstep_export.proof import Answer
from lockstep_export.samples import SampleRow, stack
from lockstep_export.step_module import StepModule

WHOLE = "step"
LENGTHS = ((7,), (5, 1, 9), (6, 3, 12, 1, 7, 2, 8, 5), (300, 40))  # elements of rows that step together
EVERY = 12  # beginnings that are looked at one by one; after them, each half as long again as the last

Elements = list[dict[str, Tensor]]  # of one row
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ProofBatch:
    """Rows that step together, and what is expected of each after each element."""

    rows: list[Elements]
    expected: list[dict[int, Arrays]]  # of each row, by place


def prove_steps(
    what: str, face: StepModule, answer: Answer, batch: ProofBatch, allowed: float
) -> list[Difference]:
    """Steps a batch through `answer` and compares."""
    worst: dict[str, tuple[float, int]] = {}
    scale = scales(item for row in batch.expected for answers in row.values() for item in answers.items())
    try:
        for place, rows, given in walk(face, answer, batch.rows):
            for index, row in enumerate(rows):
                for name, value in batch.expected[row].get(place, {}).items():
                    apart = gap(_row(face, name, given[name], index), value, scale[name])
                    furthest, first = worst.get(name, (0.0, 0))
                    first = first or (0 if apart <= allowed else place + 1)
                    worst[name] = (float(np.max([furthest, apart])), first)
    except Exception as error:  # what ONNX Runtime raises has no one type
        return [failed_run(len(batch.rows), error)]
    return [
        Difference(
            what, name, len(batch.rows), furthest, f"from element {first} on" if first else "", allowed
        )
        for name, (furthest, first) in worst.items()
    ]


def walk(
    face: StepModule, answer: Answer, batch: Sequence[Elements]
) -> Iterator[tuple[int, list[int], Arrays]]:
    """Each step: its place, the rows that take part, what it gives. A row that has ended leaves."""
    rows = list(range(len(batch)))
    states = face.start(len(rows))
    for place in range(max(map(len, batch))):
        kept = [index for index, row in enumerate(rows) if place < len(batch[row])]
        rows = [rows[index] for index in kept]
        for state in face.states:
            states[state.input] = states[state.input].index_select(state.batch_axis, torch.tensor(kept))
        element = {one.name: torch.cat([batch[row][place][one.name] for row in rows]) for one in face.inputs}
        given = answer(element | states)
        yield place, rows, given
        states = {state.input: torch.from_numpy(given[state.output]) for state in face.states}


def alone(face: StepModule, rows: Sequence[Elements]) -> list[dict[int, Arrays]]:
    """What a step gives to every row by itself: outputs and states."""
    return [{place: given for place, _, given in walk(face, face.answer, [row])} for row in rows]


def at_once(rows: Sequence[SampleRow], face: GraphModule, stepped: StepModule) -> list[dict[int, Arrays]]:
    """What the module gives to the beginnings of every row by itself; where it gives something for each
    element, that for the last."""
    (time,) = face.contract.longest
    follows = {one.name: one.follows for one in stepped.outputs}
    found = []
    for row in rows:
        answers = {}
        for length in _beginnings(row.lengths[time]):
            given = face.answer(stack(face.contract, [_beginning(row, face.contract, time, length)]))
            answers[length - 1] = {
                name: array if follows[name] is None else array.take(-1, axis=follows[name])
                for name, array in given.items()
            }
        found.append(answers)
    return found


def _beginnings(longest: int) -> Iterator[int]:
    """Their lengths, up to the whole."""
    length = 1
    while length < longest:
        yield length
        length += 1 if length < EVERY else length // 2
    yield longest


def elements(row: SampleRow, contract: InputContract, time: str) -> Elements:
    """A row's elements, one by one; what does not vary is given with each."""
    axes = {one.name: one.axes.in_front for one in contract.given}
    return [
        {
            name: tensor.select(axes[name].index(time), place) if time in axes[name] else tensor
            for name, tensor in row.inputs.items()
        }
        for place in range(row.lengths[time])
    ]


def _beginning(row: SampleRow, contract: InputContract, time: str, length: int) -> SampleRow:
    axes = {one.name: one.axes.in_front for one in contract.given}
    inputs = {
        name: tensor.narrow(axes[name].index(time), 0, length) if time in axes[name] else tensor
        for name, tensor in row.inputs.items()
    }
    return SampleRow(inputs, {**row.lengths, time: length})


def _row(face: StepModule, name: str, array: Array, index: int) -> Array:
    axis = next((state.batch_axis for state in face.states if state.output == name), 0)
    return array.take([index], axis=axis)
