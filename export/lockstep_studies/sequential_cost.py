"""Sequential cost: a cell looped over a sequence, the fused operator, a Transformer, by length.

one Elman RNN  → nn.RNNCell in a loop, nn.RNN                   PyTorch
               → a run for each step (as a step-wise model is    ONNX Runtime
                 served), one RNN node
Transformer    → one encoder layer of the same width             both
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lockstep_export.onnx_graph import OnnxGraph
from lockstep_studies.encoders import Attentive, Recurrent
from lockstep_studies.formatting import duration, figures, join_list
from lockstep_studies.graphs import export_step, export_whole
from lockstep_studies.interleaved import Run, median_seconds
from lockstep_studies.study import LineSeries, ReportProgress, Study, StudyPanel, StudySettings, StudyTable

TORCH, ONNX = "PyTorch", "ONNX Runtime"
LOOPED, FUSED, TRANSFORMER = "RNN, looped", "RNN, fused", "Transformer"
RUNTIMES, CONTENDERS = (TORCH, ONNX), (LOOPED, FUSED, TRANSFORMER)
LINEAR = 0.15  # how far from proportional still counts as linear

Array = np.ndarray[Any, Any]
Ratios = Mapping[str, float]  # by runtime
RunOfLength = Callable[[int], Run]  # a length → a run over a sequence of that length


@dataclass(frozen=True)
class SequentialCostPlan:
    """The lengths, and the number of rounds."""

    lengths: tuple[int, ...] = (10, 20, 50, 100, 200, 500, 1_000, 2_000)
    width: int = 128
    rounds: int = 15


@dataclass(frozen=True)
class SequentialCostRow:
    """One contender at one length."""

    runtime: str
    contender: str
    length: int
    seconds: float  # for the whole sequence; the median of the rounds


def measure(
    plan: SequentialCostPlan, settings: StudySettings, progress: ReportProgress
) -> list[SequentialCostRow]:
    """Times every contender at every length, interleaved."""
    torch.manual_seed(settings.seed)
    with tempfile.TemporaryDirectory() as folder:
        progress(0, plan.rounds, "exporting the graphs")
        contenders = _contenders(plan, Path(folder))
        cells = list(product(contenders, plan.lengths))
        with torch.inference_mode():
            runs = [contenders[contender](length) for contender, length in cells]
            taken = median_seconds(runs, plan.rounds, lambda done: progress(done, plan.rounds, "rounds"))
    return [
        SequentialCostRow(*contender, length, seconds)
        for (contender, length), seconds in zip(cells, taken, strict=True)
    ]


def _contenders(plan: SequentialCostPlan, folder: Path) -> dict[tuple[str, str], RunOfLength]:
    recurrent = Recurrent("RNN", plan.width).eval()
    encoder = Attentive(plan.width, max(plan.lengths)).eval()
    export_step(recurrent, plan.width, folder / "step.onnx")
    export_whole(recurrent, plan.width, folder / "fused.onnx")
    export_whole(encoder, plan.width, folder / "encoder.onnx")
    return {
        (TORCH, LOOPED): _runs(partial(loop, cell_of(recurrent)), plan),
        (TORCH, FUSED): _runs(recurrent, plan),
        (TORCH, TRANSFORMER): _runs(encoder, plan),
        (ONNX, LOOPED): _runs(partial(run_steps, OnnxGraph(folder / "step.onnx")), plan),
        (ONNX, FUSED): _runs(partial(run_whole, OnnxGraph(folder / "fused.onnx")), plan),
        (ONNX, TRANSFORMER): _runs(partial(run_whole, OnnxGraph(folder / "encoder.onnx")), plan),
    }


def _runs(read: Callable[[Tensor], object], plan: SequentialCostPlan) -> RunOfLength:
    """Runs `read` over a sequence x [1, length, width], which is drawn outside of the run."""

    def run_of_length(length: int) -> Run:
        return partial(read, torch.randn(1, length, plan.width))

    return run_of_length


def cell_of(recurrent: Recurrent) -> nn.RNNCell:
    """The layer's weights in an nn.RNNCell."""
    cell = nn.RNNCell(recurrent.layer.hidden_size, recurrent.layer.hidden_size)
    weights = recurrent.layer.state_dict()
    cell.load_state_dict({name.removesuffix("_l0"): weight for name, weight in weights.items()})
    return cell


def loop(cell: nn.RNNCell, x: Tensor) -> Tensor:
    """The last state [1, width] of x [1, length, width], by one call of the cell for each position."""
    h = torch.zeros(1, cell.hidden_size)
    for one in x.unbind(1):
        h = cell(one, h)
    return h


def run_steps(step: OnnxGraph, x: Tensor) -> Array:
    """The last state, by one run of the step graph for each position."""
    h = np.zeros((1, x.shape[2]), np.float32)
    for one in x.numpy().swapaxes(0, 1):
        [h] = step.session.run(["states"], {"x": one, "h": h})
    return h


def run_whole(graph: OnnxGraph, x: Tensor) -> Array:
    """All states [1, length, width], by one run."""
    states: Array = graph.session.run(["states"], {"x": x.numpy()})[0]
    return states


def finding(rows: Sequence[SequentialCostRow]) -> str:
    """Whether the loop's time is linear in the length, and where the Transformer is faster."""
    return f"{_growth(rows)} {_faster(rows)}"


def _growth(rows: Sequence[SequentialCostRow]) -> str:
    *_, half, full = lengths = sorted({row.length for row in rows})
    tenth = min(lengths, key=lambda length: abs(length - half / 10))
    looped = {name: _seconds(rows, name, LOOPED) for name in RUNTIMES}
    doubled = {name: taken[full] / taken[half] for name, taken in looped.items()}
    tenfold = {name: taken[half] / taken[tenth] for name, taken in looped.items()}
    return (
        f"Going from {half:,} to {full:,} positions multiplied the time of the looped RNN by "
        f"{_ratios(doubled)}, and {half:,} took {_ratios(tenfold)} times as long as {tenth:,}: "
        f"{_linearity(doubled, full / half, tenfold, half / tenth)}."
    )


def _linearity(doubled: Ratios, linear: float, tenfold: Ratios, linear_over_ten: float) -> str:
    found = [*(ratio / linear for ratio in doubled.values())]
    found += [ratio / linear_over_ten for ratio in tenfold.values()]
    if all(abs(ratio - 1) <= LINEAR for ratio in found):
        return "the cost is linear in the length, as the textbook has it"
    return f"a cost linear in the length would give {linear:.3g} and {linear_over_ten:.3g}"


def _faster(rows: Sequence[SequentialCostRow]) -> str:
    text = [f"in {name} {_compare(rows, name)}" for name in RUNTIMES]
    return f"On one thread, without parallel hardware, {join_list(text)}."


def _compare(rows: Sequence[SequentialCostRow], runtime: str) -> str:
    """The lengths at which the Transformer is faster than the loop and than the fused operator."""
    looped, fused, encoder = (_seconds(rows, runtime, name) for name in CONTENDERS)
    lengths = sorted(encoder)
    over_loop = [length for length in lengths if encoder[length] < looped[length]]
    over_fused = [length for length in lengths if encoder[length] < fused[length]]
    last = lengths[-1]
    return (
        f"the Transformer beat the looped RNN {_format_lengths(over_loop, lengths)} and the fused one "
        f"{_format_lengths(over_fused, lengths)} (at {last:,}: {duration(encoder[last])} against "
        f"{duration(looped[last])} looped, {duration(fused[last])} fused)"
    )


def _format_lengths(lengths: Sequence[int], every: Sequence[int]) -> str:
    """The lengths as text; consecutive ones as a range."""
    if not lengths:
        return "at no length"
    if lengths == every:
        return "at every length"
    first, last = every.index(lengths[0]), every.index(lengths[-1])
    if len(lengths) > 1 and lengths == every[first : last + 1]:
        return f"from {lengths[0]:,} to {lengths[-1]:,}"
    return f"at {join_list([f'{length:,}' for length in lengths])}"


def _ratios(ratios: Ratios) -> str:
    return join_list([f"{figures(ratio)} ({name})" for name, ratio in ratios.items()])


def _seconds(rows: Sequence[SequentialCostRow], runtime: str, contender: str) -> dict[int, float]:
    return {row.length: row.seconds for row in rows if (row.runtime, row.contender) == (runtime, contender)}


def table(rows: Sequence[SequentialCostRow]) -> StudyTable:
    """One row per length, one column per contender."""
    contenders = list(dict.fromkeys((row.runtime, row.contender) for row in rows))
    columns = ("positions", *(f"{contender} ({runtime})" for runtime, contender in contenders))
    by_length = [
        (f"{length:,}", *(duration(_seconds(rows, *contender)[length]) for contender in contenders))
        for length in sorted({row.length for row in rows})
    ]
    return StudyTable(columns, by_length)


def panels(rows: Sequence[SequentialCostRow]) -> list[StudyPanel]:
    """One chart per runtime."""
    return [
        StudyPanel(
            f"{runtime}, one thread, one sequence",
            "length (positions)",
            "time (ms)",
            tuple(
                LineSeries(name, list(taken), [seconds * 1e3 for seconds in taken.values()])
                for name in CONTENDERS
                if (taken := _seconds(rows, runtime, name))
            ),
            log_x=True,
            log_y=True,
        )
        for runtime in RUNTIMES
    ]


STUDY = Study(
    name="sequential-cost",
    method="One layer of width {width} and one sequence, on one thread. The looped RNN makes one call of "
    "PyTorch's cell for each position, or one run of ONNX Runtime, as a step-wise model does. Medians of "
    "processor time over {rounds} interleaved rounds.",
    plan=SequentialCostPlan(),
    quick=SequentialCostPlan(lengths=(10, 100, 200), rounds=3),
    row=SequentialCostRow,
    measure=measure,
    finding=finding,
    table=table,
    panels=panels,
)
