"""Compares batched results with unbatched ones: of the module before export, then of the graph.

    batched      rows of equal length in one batch, against each of them alone
    padded       rows of different lengths in one batch, padded to the longest and further, against each alone
    as PyTorch   the same batch through the graph and through the module

The first two compare a graph with the module on one unpadded row, so that they find errors of the exporter
too; the third shows whether the exporter or the module is at fault.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from lockstep_export.axes import ModuleOutput
from lockstep_export.computed_lengths import value
from lockstep_export.contract import InputContract
from lockstep_export.onnx_graph import Arrays
from lockstep_export.parity import Difference, failed_run, gaps
from lockstep_export.samples import SampleRow, batches, stack

BATCHED, PADDED, PYTORCH = "batched", "padded", "as PyTorch"
EXTRA_PADDING = 5

Answer = Callable[[Mapping[str, Tensor]], Arrays]
Array = np.ndarray[Any, Any]


def prove(
    contract: InputContract, outputs: Sequence[ModuleOutput], found: Answer, module: Answer
) -> list[Difference]:
    """Compares `found` with the module; `found` may be the module's own `answer`."""
    differences = []
    for rows in batches(contract):
        unbatched = [module(stack(contract, [row])) for row in rows]
        for extra in (0, EXTRA_PADDING) if contract.padded else (0,):
            try:
                differences += _compare(contract, outputs, found, module, rows, extra, unbatched)
            except Exception as error:  # ONNX Runtime raises various types
                differences.append(failed_run(len(rows), error, describe_lengths(rows)))
    return differences


def _compare(
    contract: InputContract,
    outputs: Sequence[ModuleOutput],
    found: Answer,
    module: Answer,
    rows: Sequence[SampleRow],
    extra: int,
    unbatched: Sequence[Arrays],
) -> list[Difference]:
    batch = stack(contract, rows, extra)
    batched = found(batch)
    even = all(row.lengths == rows[0].lengths for row in rows)
    comparison = PADDED if extra or not even else BATCHED
    note, allowed = describe_lengths(rows, extra), contract.options.tolerance
    differences = gaps(comparison, len(rows), _pairs(outputs, rows, batched, unbatched), allowed, note)
    if found != module:
        expected = module(batch)
        parts = [cut(outputs, expected, index, row) for index, row in enumerate(rows)]
        differences += gaps(PYTORCH, len(rows), _pairs(outputs, rows, batched, parts), allowed, note)
    return differences


def _pairs(
    outputs: Sequence[ModuleOutput], rows: Sequence[SampleRow], batched: Arrays, unbatched: Sequence[Arrays]
) -> Iterator[tuple[str, Array, Array]]:
    for index, (row, expected) in enumerate(zip(rows, unbatched, strict=True)):
        part = cut(outputs, batched, index, row)
        for output in outputs:
            yield output.name, part[output.name], expected[output.name]


def cut(outputs: Sequence[ModuleOutput], arrays: Arrays, index: int, row: SampleRow) -> Arrays:
    """One row of a batch's results, cut to its own lengths."""
    parts = {}
    for output in outputs:
        part = arrays[output.name].take([index], axis=output.batch_axis)
        for axis, name in enumerate(output.graph_axes):
            if (size := value(name, row.lengths)) is not None:
                part = part.take(range(min(size, part.shape[axis])), axis=axis)
        parts[output.name] = part
    return parts


def describe_lengths(rows: Sequence[SampleRow], extra: int = 0) -> str:
    """The lengths of a batch's rows, for a report."""
    parts = []
    for name in rows[0].lengths:
        sizes = sorted({row.lengths[name] for row in rows})
        parts.append(f"{name} {sizes[0]}" + (f" to {sizes[-1]}" if len(sizes) > 1 else ""))
    return ", ".join(parts) + (f", {extra} extra padding" if extra else "")
