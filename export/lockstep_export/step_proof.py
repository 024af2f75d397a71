"""Compares step-wise results, of sequences of different lengths that step together, with unbatched ones.

batched     outputs and states after each element, against the same step with one row per batch
step        after each element (of long rows, only some), against the one-shot form on the prefix, unbatched
forced      the states and scores after a prefill, against the same prompt step by step
rows        a batch's first rows by themselves, against the same rows in the whole batch
length      the states padded further, against the same rows with less padding

The last two only if results must be exact.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from lockstep_export.axes import ModuleOutput
from lockstep_export.contract import InputContract
from lockstep_export.onnx_graph import Arrays
from lockstep_export.parity import EXACT, Difference, failed_run, gap, gaps, scales
from lockstep_export.proof import Answer, cut
from lockstep_export.samples import SampleRow, stack
from lockstep_export.step_module import StepModule, StepRow

WHOLE, FORCED, ROWS, LENGTH = "step", "forced", "rows", "length"
LENGTHS = ((7,), (5, 1, 9), (6, 3, 12, 1, 7, 2, 8, 5), (300, 40))  # elements of rows that step together
DENSE_PREFIXES = (
    12  # prefixes up to this length are all compared; after it, each is half as long again as the last
)
DRIFT = 1e-4  # two orders of summation over hundreds of steps: rounding errors accumulate
ROW_COUNTS = (
    1,
    2,
    3,
    4,
    5,
    8,
    16,
    31,
    32,
    63,
    64,
    100,
    127,
)  # compared with the same rows in a batch of MOST
MOST, WARM_STEPS = 128, 3
PADDED_TO = (52, 120)  # elements: multiples of four, whose products are summed in the same order

Elements = list[dict[str, Tensor]]  # of one row
States = dict[str, Tensor]  # of one row, by input
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ProofBatch:
    """Rows that step together, their states at the start, and the expected results after each element."""

    rows: list[Elements]
    expected: list[dict[int, Arrays]]  # for each row: element index → results
    starts: list[States] = field(default_factory=list)  # empty: the initial states


def prove_steps(
    comparison: str, step: StepModule, answer: Answer, batch: ProofBatch, tolerance: float, extra: int = 0
) -> list[Difference]:
    """Steps a batch through `answer`, states padded by `extra` elements, and compares the results."""
    worst: dict[str, tuple[float, int]] = {}
    scale = scales(item for row in batch.expected for answers in row.values() for item in answers.items())
    try:
        for position, results in run_steps(step, answer, batch.rows, batch.starts, extra):
            for row, found in results.items():
                for name, value in batch.expected[row].get(position, {}).items():
                    difference = gap(found[name], value, scale[name])
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
    step: StepModule, answer: Answer, batch: Sequence[Elements], starts: Sequence[States] = (), extra: int = 0
) -> Iterator[tuple[int, dict[int, Arrays]]]:
    """Each step: element index, and the results of the rows that take part, without padding. A row leaves
    the batch when it ends."""
    states = dict(enumerate(starts or [step.start() for _ in batch]))
    for position in range(max(map(len, batch))):
        rows = {
            row: StepRow(elements[position], states[row])
            for row, elements in enumerate(batch)
            if position < len(elements)
        }
        outputs = answer(step.batch(list(rows.values()), extra))
        results = {row: step.cut(outputs, index, rows[row]) for index, row in enumerate(rows)}
        yield position, results
        states = {row: step.next_states(rows[row], found) for row, found in results.items()}


def unbatched_results(
    step: StepModule, answer: Answer, rows: Sequence[Elements], starts: Sequence[States] = ()
) -> list[dict[int, Arrays]]:
    """The results of each row stepped by itself: outputs and states after each element."""
    return [
        {
            position: results[0]
            for position, results in run_steps(step, answer, [row], starts[index : index + 1])
        }
        for index, row in enumerate(rows)
    ]


def prefix_results(
    rows: Sequence[SampleRow],
    contract: InputContract,
    outputs: Sequence[ModuleOutput],
    answer: Answer,
    step: StepModule,
) -> list[dict[int, Arrays]]:
    """The results of the one-shot form, unbatched: of outputs with one value for each element, all of them in
    one run; of the others, those on prefixes of each row."""
    (time,) = contract.max_lengths
    kept = {output.name for output in step.outputs} & {output.name for output in outputs}
    follows = {output.name: output.graph_axes.index(time) for output in outputs if time in output.graph_axes}
    found = []
    for row in rows:
        answers: dict[int, Arrays] = {position: {} for position in range(row.lengths[time])}
        if kept & follows.keys():
            whole = answer(stack(contract, [row]))
            for name in kept & follows.keys():
                for position in answers:
                    answers[position][name] = whole[name].take(position, axis=follows[name])
        for length in _prefix_lengths(row.lengths[time]) if kept - follows.keys() else ():
            prefix = answer(stack(contract, [_prefix(row, contract, time, length)]))
            answers[length - 1] |= {name: prefix[name] for name in kept - follows.keys()}
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


def forced(
    step: StepModule,
    answer: Answer,
    rows: Sequence[SampleRow],
    prompts: Sequence[Elements],
    outputs: Sequence[ModuleOutput],
    prefilled: Arrays,
    tolerance: float,
) -> list[Difference]:
    """The results of a prefill, batched and padded, against those of the last step of each prompt."""
    started = {state.prefill: state.output for state in step.changing if state.prefill}
    started |= {output.name: output.name for output in step.outputs}
    compared = [output for output in outputs if output.name in started]
    ends: dict[int, Arrays] = {}
    for _, results in run_steps(step, answer, prompts):
        ends |= results
    pairs = []
    for index, row in enumerate(rows):
        part = cut(outputs, prefilled, index, row)
        pairs += [(output.name, part[output.name], ends[index][started[output.name]]) for output in compared]
    return gaps(FORCED, len(rows), pairs, max(tolerance, DRIFT))


def prove_exact(
    step: StepModule, answer: Answer, rows: list[Elements], starts: list[States]
) -> list[Difference]:
    """One step after a few others: the first rows of a batch, then states padded further, bit for bit."""
    warm = [row[:WARM_STEPS] for row in rows]
    states: dict[int, States] = {}
    for position, results in run_steps(step, answer, warm, starts):
        before = states or dict(enumerate(starts or [step.start() for _ in rows]))
        states = {
            row: step.next_states(StepRow(warm[row][position], before[row]), found)
            for row, found in results.items()
        }
    batch = [StepRow(row[WARM_STEPS], states[index]) for index, row in enumerate(rows)]
    shortest = (
        -(-max((max(step.lengths(row.states).values(), default=0) for row in batch), default=0) // 4) * 4
    )
    inputs = step.batch(batch, shortest=shortest)
    whole = answer(inputs)
    axes = {state.input: state.batch_axis for state in step.states}
    found_axes = {state.output: state.batch_axis for state in step.changing}
    differences = []
    for count in ROW_COUNTS:
        first = {name: tensor.narrow(axes.get(name, 0), 0, count) for name, tensor in inputs.items()}
        part = answer({name: tensor.contiguous() for name, tensor in first.items()})
        pairs = ((name, part[name], whole[name].take(range(count), found_axes.get(name, 0))) for name in part)
        differences += gaps(ROWS, count, pairs, EXACT)
    for longest in PADDED_TO if step.max_lengths else ():
        padded = answer(step.batch(batch, shortest=longest))
        cuts = ((step.cut(padded, i, row), step.cut(whole, i, row)) for i, row in enumerate(batch))
        pairs = ((name, one[name], other[name]) for one, other in cuts for name in one)
        differences += gaps(LENGTH, len(batch), pairs, EXACT)
    return differences
