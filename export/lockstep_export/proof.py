"""Proves that a face answers each row as it would alone: before export of the module, then of the graph.

    in company   rows of one length in one run, against each of them alone
    padded       ragged rows in one run, padded to the longest and further, against each alone and unpadded
    as PyTorch   the same run through the graph and through the module

The first two hold a graph against the module alone with the row, so that an exporter's fault shows there
too; the third tells whose fault it is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from lockstep_export.contract import InputContract
from lockstep_export.graph_module import ModuleOutput
from lockstep_export.onnx_graph import Arrays
from lockstep_export.parity import Difference, failed_run, gaps
from lockstep_export.samples import SampleRow, batches, stack

COMPANY, PADDED, PYTORCH = "in company", "padded", "as PyTorch"
EXTRA_PADDING = 5

Answer = Callable[[Mapping[str, Tensor]], Arrays]
Array = np.ndarray[Any, Any]


def prove(
    contract: InputContract, outputs: Sequence[ModuleOutput], found: Answer, module: Answer
) -> list[Difference]:
    """Compares `found` with the module; `found` may be the module's own answer."""
    differences = []
    for rows in batches(contract):
        alone = [module(stack(contract, [row])) for row in rows]
        for extra in (0, EXTRA_PADDING) if contract.padded else (0,):
            try:
                differences += _compare(contract, outputs, found, module, rows, extra, alone)
            except Exception as error:  # what ONNX Runtime raises has no one type
                differences.append(failed_run(len(rows), error, told(rows)))
    return differences


def _compare(
    contract: InputContract,
    outputs: Sequence[ModuleOutput],
    found: Answer,
    module: Answer,
    rows: Sequence[SampleRow],
    extra: int,
    alone: Sequence[Arrays],
) -> list[Difference]:
    run = stack(contract, rows, extra)
    together = found(run)
    even = all(row.lengths == rows[0].lengths for row in rows)
    what = PADDED if extra or not even else COMPANY
    where, allowed = told(rows, extra), contract.choices.tolerance
    differences = gaps(what, len(rows), _alone(outputs, rows, together, alone), allowed, where)
    if found != module:
        expected = module(run)
        parts = [cut(outputs, expected, index, row) for index, row in enumerate(rows)]
        differences += gaps(PYTORCH, len(rows), _alone(outputs, rows, together, parts), allowed, where)
    return differences


def _alone(
    outputs: Sequence[ModuleOutput], rows: Sequence[SampleRow], together: Arrays, alone: Sequence[Arrays]
) -> Iterator[tuple[str, Array, Array]]:
    for index, (row, expected) in enumerate(zip(rows, alone, strict=True)):
        part = cut(outputs, together, index, row)
        for one in outputs:
            yield one.name, part[one.name], expected[one.name]


def cut(outputs: Sequence[ModuleOutput], arrays: Arrays, index: int, row: SampleRow) -> Arrays:
    """One row of what a run gave, cut back to its own lengths."""
    parts = {}
    for one in outputs:
        part = arrays[one.name][index : index + 1]
        for axis, name in enumerate(one.axes.in_front):
            if axis and name:
                part = part.take(range(min(row.lengths[name], part.shape[axis])), axis=axis)
        parts[one.name] = part
    return parts


def told(rows: Sequence[SampleRow], extra: int = 0) -> str:
    """The lengths of a run's rows, for a report."""
    parts = []
    for name in rows[0].lengths:
        sizes = sorted({row.lengths[name] for row in rows})
        parts.append(f"{name} {sizes[0]}" + (f" to {sizes[-1]}" if len(sizes) > 1 else ""))
    return ", ".join(parts) + (f", {extra} more padding" if extra else "")
