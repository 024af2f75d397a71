"""Long-sequence cost: time and memory of convolutions, an RNN, an LSTM and a Transformer, by length.

layers of equal width → ONNX graphs (graphs.py) → each graph at each length in a new process
(measure_memory.py), interleaved, several times → the median time and the median peak
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median

import torch

from lockstep_export.errors import ExportError
from lockstep_studies import measure_memory
from lockstep_studies.encoders import Attentive, Recurrent, Stacked
from lockstep_studies.formatting import duration, figures, join_list, size
from lockstep_studies.graphs import export_whole
from lockstep_studies.study import LineSeries, ReportProgress, Study, StudyPanel, StudySettings, StudyTable

CONVOLUTIONS, TRANSFORMER = "three convolutions", "Transformer"
LAYERS = (CONVOLUTIONS, "RNN", "LSTM", TRANSFORMER)
PAIRS = ", which holds a score for every pair of positions,"
MORE_THAN_LINEAR = 1.25  # factor over proportional growth
PROCESS_TIMEOUT_S = 60.0  # of one measuring process


@dataclass(frozen=True)
class LongSequenceCostPlan:
    """The lengths, and the number of processes and runs."""

    lengths: tuple[int, ...] = (100, 500, 1_000, 2_000)
    width: int = 128
    processes: int = 5  # for each layer and length
    runs: int = 5  # in each process


@dataclass(frozen=True)
class LongSequenceCostRow:
    """One layer at one length."""

    layer: str
    length: int
    seconds: float  # for the whole sequence
    bytes: int  # peak, above the process's memory with the graph open


def check(_: StudySettings) -> None:
    """Raises ExportError if the system does not report a process's peak memory."""
    if not measure_memory.can_measure_memory():
        raise ExportError("long-sequence-cost needs /proc/self/clear_refs to measure memory: run it on Linux")


def measure(
    plan: LongSequenceCostPlan, settings: StudySettings, progress: ReportProgress
) -> list[LongSequenceCostRow]:
    """Measures every layer at every length."""
    torch.manual_seed(settings.seed)
    cells = list(product(LAYERS, plan.lengths))
    with tempfile.TemporaryDirectory() as folder:
        progress(0, plan.processes, "exporting the graphs")
        graphs = _export(plan, Path(folder))
        found: list[list[dict[str, float]]] = []
        for done in range(plan.processes):
            progress(done, plan.processes, "rounds of processes")
            found.append([_measure_in_process(graphs[layer], length, plan) for layer, length in cells])
    return [_row(cell, taken) for cell, taken in zip(cells, zip(*found, strict=True), strict=True)]


def _export(plan: LongSequenceCostPlan, folder: Path) -> dict[str, Path]:
    modules: Mapping[str, Callable[[], torch.nn.Module]] = {
        CONVOLUTIONS: lambda: Stacked(plan.width),
        "RNN": lambda: Recurrent("RNN", plan.width),
        "LSTM": lambda: Recurrent("LSTM", plan.width),
        TRANSFORMER: lambda: Attentive(plan.width, max(plan.lengths)),
    }
    graphs = {name: folder / f"{index}.onnx" for index, name in enumerate(LAYERS)}
    for name, path in graphs.items():
        export_whole(modules[name]().eval(), plan.width, path)
    return graphs


def _measure_in_process(graph: Path, length: int, plan: LongSequenceCostPlan) -> dict[str, float]:
    numbers = (str(number) for number in (length, plan.width, plan.runs))
    command = [sys.executable, "-P", measure_memory.__file__, str(graph), *numbers]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PROCESS_TIMEOUT_S, check=False)
    if done.returncode:
        raise ExportError(f"a measuring process failed:\n{done.stderr[-500:]}")
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def _row(cell: tuple[str, int], taken: Sequence[Mapping[str, float]]) -> LongSequenceCostRow:
    seconds, peak = (median(one[what] for one in taken) for what in ("seconds", "bytes"))
    return LongSequenceCostRow(*cell, seconds=seconds, bytes=int(peak))


def finding(rows: Sequence[LongSequenceCostRow]) -> str:
    """Growth of time and memory over the last two lengths; the fastest and the smallest layers."""
    return f"{_time(rows)} {_memory(rows)}"


def _time(rows: Sequence[LongSequenceCostRow]) -> str:
    half, full = _last_two_lengths(rows)
    seconds = {name: _by_length(rows, name, "seconds") for name in LAYERS}
    grown = {name: taken[full] / taken[half] for name, taken in seconds.items()}
    least, last = (min(LAYERS, key=lambda name: seconds[name][length]) for length in (_shortest(rows), full))
    quickest = (
        f"the fastest was the {_name(least)} at {_shortest(rows):,} and at {full:,}"
        if least == last
        else f"the fastest was the {_name(least)} at {_shortest(rows):,} and the {_name(last)} at {full:,}"
    )
    return (
        f"From {half:,} to {full:,} positions the time grew {_ratios(grown)}"
        f"{_superlinear(grown, full / half)}; {quickest} ({duration(seconds[last][full])} for {full:,})."
    )


def _memory(rows: Sequence[LongSequenceCostRow]) -> str:
    half, full = _last_two_lengths(rows)
    used = {name: _by_length(rows, name, "bytes") for name in LAYERS}
    grown = {name: taken[full] / max(taken[half], 1) for name, taken in used.items()}
    ranked = sorted(LAYERS, key=lambda name: used[name][full])
    light, heavy = ranked[0], ranked[-1]
    return (
        f"Peak memory grew {_ratios(grown)}{_superlinear(grown, full / half, PAIRS)}; at {full:,} the "
        f"{_name(heavy)} used {size(used[heavy][full])} and the {_name(light)} {size(used[light][full])}."
    )


def _superlinear(grown: Mapping[str, float], linear: float, why: str = "") -> str:
    """The layers that grow faster than the length."""
    faster = [name for name, ratio in grown.items() if ratio > MORE_THAN_LINEAR * linear]
    if not faster:
        return ", none of them faster than the length"
    if faster == [TRANSFORMER]:
        return f": only the Transformer{why} grew faster than the length"
    return f": the {join_list([_name(name) for name in faster])} grew faster than the length"


def _ratios(ratios: Mapping[str, float]) -> str:
    return join_list([f"{figures(ratio)} times ({name})" for name, ratio in ratios.items()])


def _name(name: str) -> str:
    return "stack of convolutions" if name == CONVOLUTIONS else name


def _shortest(rows: Sequence[LongSequenceCostRow]) -> int:
    return min(row.length for row in rows)


def _last_two_lengths(rows: Sequence[LongSequenceCostRow]) -> tuple[int, int]:
    """The last two lengths."""
    *_, half, full = sorted({row.length for row in rows})
    return half, full


def _by_length(rows: Sequence[LongSequenceCostRow], layer: str, what: str) -> dict[int, float]:
    return {row.length: getattr(row, what) for row in rows if row.layer == layer}


def table(rows: Sequence[LongSequenceCostRow]) -> StudyTable:
    """One row per length: time and memory of each layer."""
    columns = ("positions", *(f"{name}, {what}" for what in ("time", "memory") for name in LAYERS))
    lengths = sorted({row.length for row in rows})
    return StudyTable(columns, [_cells(rows, length) for length in lengths])


def _cells(rows: Sequence[LongSequenceCostRow], length: int) -> tuple[str, ...]:
    times = (duration(_by_length(rows, name, "seconds")[length]) for name in LAYERS)
    return (f"{length:,}", *times, *(size(_by_length(rows, name, "bytes")[length]) for name in LAYERS))


def panels(rows: Sequence[LongSequenceCostRow]) -> list[StudyPanel]:
    """Time and memory by length."""
    charts = (("Time", "seconds", "time (ms)", 1e3), ("Peak memory", "bytes", "memory (MB)", 1e-6))
    return [
        StudyPanel(
            f"{title} of one sequence, one thread",
            "length (positions)",
            label,
            tuple(
                LineSeries(name, list(found), [value * unit for value in found.values()])
                for name in LAYERS
                if (found := _by_length(rows, name, what))
            ),
            log_x=True,
            log_y=True,
        )
        for title, what, label, unit in charts
    ]


STUDY = Study(
    name="long-sequence-cost",
    method="One layer of width {width} (three layers for the convolutions, with kernels of 3, 5 and 7), one "
    "sequence, ONNX Runtime on one thread. {processes} new processes for each layer and length, interleaved, "
    "with {runs} runs in each: medians of processor time. Memory is the peak of a process's resident set "
    "above its resident set with the graph open.",
    plan=LongSequenceCostPlan(),
    quick=LongSequenceCostPlan(lengths=(100, 200), width=32, processes=1, runs=2),
    row=LongSequenceCostRow,
    measure=measure,
    finding=finding,
    table=table,
    panels=panels,
    check=check,
)
