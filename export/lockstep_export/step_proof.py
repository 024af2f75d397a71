"""Compares step-wise results, of sequences of different lengths that step together, with unbatched ones.

step        a derived module: after each element (of long rows, only some), against the whole module on
            the prefix, unbatched
batched     a step written by its author: outputs and states after each element, against the same step
            with one row per batch
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
DENSE_PREFIXES = (
    12  # prefixes up to this length are all compared; after it, each is half as long again as the last
)

Elements = list[dict[str, Tensor]]  # of one row
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ProofBatch:
    """Rows that step together, and the expected results of each after each element."""

    rows: list[Elements]
    expected: list[dict[int, Arrays]]  # for each row: element index → results


def prove_steps(
    comparison: str, step: StepModule, answer: Answer, batch: ProofBatch, tolerance: float
) -> list[Difference]:
    """Steps a batch through `answer` and compares the results."""
    worst: dict[str, tuple[float, int]] = {}
    scale = scales(item for row in batch.expected for answers in row.values() for item in answers.items())
    try:
        for position, rows, outputs in run_steps(step, answer, batch.rows):
            for index, row in enumerate(rows):
                for name, value in batch.expected[row].get(position, {}).items():
                    difference = gap(_row(step, name, outputs[name], index), value, scale[name])
                    largest, first_failure = worst.get(name, (0.0, 0))
                    first_failure = first_failure or (0 if difference <= tolerance else position + 1)
                    worst[name] = (float(np.max([largest, difference])), first_failure)
    except Exception as error:  # ONNX Runtime raises various types
        return [failed_run(len(batch.rows), error)]
    return [
        Difference(
            comparison,
            name,
            len(batch.rows),
            largest,
            f"from element {first_failure} on" if first_failure else "",
            tolerance,
        )
        for name, (largest, first_failure) in worst.items()
    ]


def run_steps(
    step: StepModule, answer: Answer, batch: Sequence[Elements]
) -> Iterator[tuple[int, list[int], Arrays]]:
    """Each step: element index, rows that take part, results. A row leaves the batch when it ends."""
    rows = list(range(len(batch)))
    states = step.start(len(rows))
    for position in range(max(map(len, batch))):
        kept = [index for index, row in enumerate(rows) if position < len(batch[row])]
        rows = [rows[index] for index in kept]
        for state in step.states:
            states[state.input] = states[state.input].index_select(state.batch_axis, torch.tensor(kept))
        element = {
            input_.name: torch.cat([batch[row][position][input_.name] for row in rows])
            for input_ in step.inputs
        }
        outputs = answer(element | states)
        yield position, rows, outputs
        states = {state.input: torch.from_numpy(outputs[state.output]) for state in step.states}


def unbatched_results(step: StepModule, rows: Sequence[Elements]) -> list[dict[int, Arrays]]:
    """The results of each row stepped by itself: outputs and states after each element."""
    return [
        {position: outputs for position, _, outputs in run_steps(step, step.answer, [row])} for row in rows
    ]


def prefix_results(
    rows: Sequence[SampleRow], graph_module: GraphModule, step: StepModule
) -> list[dict[int, Arrays]]:
    """The results of the whole module on prefixes of each row, unbatched; of outputs with one value for each
    element, the last."""
    (time,) = graph_module.contract.max_lengths
    follows = {output.name: output.follows for output in step.outputs}
    found = []
    for row in rows:
        answers = {}
        for length in _prefix_lengths(row.lengths[time]):
            outputs = graph_module.answer(
                stack(graph_module.contract, [_prefix(row, graph_module.contract, time, length)])
            )
            answers[length - 1] = {
                name: array if follows[name] is None else array.take(-1, axis=follows[name])
                for name, array in outputs.items()
            }
        found.append(answers)
    return found


def _prefix_lengths(longest: int) -> Iterator[int]:
    """The lengths of the prefixes to compare, up to the whole row."""
    length = 1
    while length < longest:
        yield length
        length += 1 if length < DENSE_PREFIXES else length // 2
    yield longest


def elements(row: SampleRow, contract: InputContract, time: str) -> Elements:
    """The elements of a row; inputs that do not vary are repeated for each."""
    axes = {input_.name: input_.axes.graph_axes for input_ in contract.client_inputs}
    return [
        {
            name: tensor.select(axes[name].index(time), position) if time in axes[name] else tensor
            for name, tensor in row.inputs.items()
        }
        for position in range(row.lengths[time])
    ]


def _prefix(row: SampleRow, contract: InputContract, time: str, length: int) -> SampleRow:
    axes = {input_.name: input_.axes.graph_axes for input_ in contract.client_inputs}
    inputs = {
        name: tensor.narrow(axes[name].index(time), 0, length) if time in axes[name] else tensor
        for name, tensor in row.inputs.items()
    }
    return SampleRow(inputs, {**row.lengths, time: length})


def _row(step: StepModule, name: str, array: Array, index: int) -> Array:
    axis = next((state.batch_axis for state in step.states if state.output == name), 0)
    return array.take([index], axis=axis)
