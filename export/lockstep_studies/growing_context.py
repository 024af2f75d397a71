"""Growing context: what one more character costs an LSTM, whose state never grows, and a GPT with caches.

step graphs of the two shipped models (as a server runs them) → states as after `context` characters, padded
as the server pads them → one step of `rows` streams, interleaved → seconds; bytes of a stream's states
"""

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from lockstep_export.errors import ExportError
from lockstep_export.onnx_graph import OnnxGraph
from lockstep_studies.formatting import duration, figures, join_list, size
from lockstep_studies.interleaved import Run, median_seconds
from lockstep_studies.study import LineSeries, ReportProgress, Study, StudyPanel, StudySettings, StudyTable
from lockstep_zoo.scores import read_record

LSTM, GPT = "shakespeare-char-lstm", "shakespeare-gpt"
NAMES = {LSTM: "LSTM", GPT: "GPT"}
SMALLEST_BUCKET = 16  # elements of the server's smallest cache
RATE = 20  # characters per second and stream: about as fast as people read
SAME = 1.05  # numbers up to this ratio apart count as equal
DATATYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32}


@dataclass(frozen=True)
class GrowingContextPlan:
    """The contexts, and how many streams share a step."""

    contexts: tuple[int, ...] = (10, 30, 100, 300, 1_000)
    rows: tuple[int, ...] = (1, 64)
    rounds: int = 15


@dataclass(frozen=True)
class GrowingContextRow:
    """One model after one context, with one number of streams in a step."""

    model: str
    context: int  # characters that each stream has read or written
    rows: int  # streams that share the step
    seconds: float  # of the whole step; the median of the rounds
    bytes: int  # states of one stream
    bits: float  # per character of the test text


class StepGraph:
    """The step graph of a shipped model, and its states as the manifest describes them."""

    def __init__(self, folder: Path) -> None:
        manifest = tomllib.loads((folder / "model.toml").read_text(encoding="utf-8"))["stepwise"]
        version = max(
            (one for one in folder.iterdir() if one.name.isdecimal()), key=lambda one: int(one.name)
        )
        self._session = OnnxGraph(version / manifest["graph"]).session
        self._inputs: dict[str, Any] = manifest["inputs"]
        self._states = {state["input"]: state for state in manifest["state"]}

    def step(self, context: int, rows: int, rng: np.random.Generator) -> Run:
        """A step of `rows` streams after `context` elements; its inputs are drawn outside of the run."""
        feeds = {}
        for tensor in self._session.get_inputs():
            datatype = DATATYPES[tensor.type]
            if tensor.name in self._states:
                shape = self._shape(tensor.name, tensor.shape, context, rows)
                feeds[tensor.name] = rng.standard_normal(shape).astype(datatype)
            elif self._inputs[tensor.name].get("generated") == "lengths":
                feeds[tensor.name] = np.full(rows, context, datatype)
            else:
                feeds[tensor.name] = self._ids(tensor.name, rows, rng).astype(datatype)
        return partial(self._session.run, None, feeds)

    def _ids(self, name: str, rows: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        low, high = self._inputs[name]["range"]
        return rng.integers(low, high, rows)

    def state_bytes(self, context: int) -> int:
        """The bytes of one stream's states after `context` elements."""
        return sum(
            prod(self._shape(tensor.name, tensor.shape, context, 1))
            * np.dtype(DATATYPES[tensor.type]).itemsize
            for tensor in self._session.get_inputs()
            if tensor.name in self._states
        )

    def _shape(self, name: str, shape: Sequence[int | str], context: int, rows: int) -> list[int]:
        state, sizes = self._states[name], list(shape)
        sizes[state["batch_axis"]] = rows
        for axis in state.get("lengths", {}):
            sizes[int(axis)] = bucket(context + 1)  # room for the next element
        return [int(each) for each in sizes]


def bucket(elements: int) -> int:
    """The size of the server's cache for so many elements: a power of two."""
    return max(SMALLEST_BUCKET, 1 << (elements - 1).bit_length())


def check(settings: StudySettings) -> None:
    """Raises ExportError if a model is missing."""
    missing = [name for name in NAMES if not (settings.models / name / "model.toml").is_file()]
    if missing:
        raise ExportError(
            f"no {join_list(missing)} in {settings.models}: set the model repository with --models"
        )
    unmeasured = [name for name in NAMES if name not in read_record(settings.models).scores]
    if unmeasured:
        raise ExportError(f"{settings.models}: no score of {join_list(unmeasured)}; measure it with the zoo")


def measure(
    plan: GrowingContextPlan, settings: StudySettings, progress: ReportProgress
) -> list[GrowingContextRow]:
    """Times a step of both models after every context, interleaved."""
    progress(0, plan.rounds, "opening the graphs")
    graphs = {name: StepGraph(settings.models / name) for name in NAMES}
    scores = read_record(settings.models).scores
    rng = np.random.default_rng(settings.seed)
    cells = list(product(NAMES, plan.contexts, plan.rows))
    runs = [graphs[name].step(context, rows, rng) for name, context, rows in cells]
    taken = median_seconds(runs, plan.rounds, lambda done: progress(done, plan.rounds, "rounds"))
    return [
        GrowingContextRow(*cell, seconds, graphs[cell[0]].state_bytes(cell[1]), scores[cell[0]].test)
        for cell, seconds in zip(cells, taken, strict=True)
    ]


def streams_per_core(row: GrowingContextRow) -> float:
    """Streams of `RATE` characters per second that one core keeps, if so many share each step."""
    return row.rows / row.seconds / RATE


def finding(rows: Sequence[GrowingContextRow]) -> str:
    """The step time at the shortest and longest context; streams per core, memory, and the better text."""
    return f"{_steps(rows)} {_streams(rows)}"


def _steps(rows: Sequence[GrowingContextRow]) -> str:
    first, last = _ends(rows)
    times = {name: _by_context(rows, name, min(row.rows for row in rows)) for name in NAMES}
    grown = [
        f"from {duration(found[first].seconds)} to {duration(found[last].seconds)}"
        f" ({figures(found[last].seconds / found[first].seconds)} times) in the {NAMES[name]}"
        for name, found in times.items()
    ]
    winners = {
        context: _winner(row.seconds, times[GPT][context].seconds) for context, row in times[LSTM].items()
    }
    return (
        f"From {first:,} to {last:,} characters of context the step of one stream went {join_list(grown)}; "
        f"{_faster(winners)}."
    )


def _winner(lstm: float, gpt: float) -> str:
    """The model with the smaller number; empty if they are about equal."""
    return "" if max(lstm, gpt) <= SAME * min(lstm, gpt) else LSTM if lstm < gpt else GPT


def _faster(winners: dict[int, str]) -> str:
    """Which model is faster after which contexts."""
    parts = []
    for name in (LSTM, GPT, ""):
        at = [f"{context:,}" for context, winner in winners.items() if winner == name]
        where = "at every length" if len(at) == len(winners) else f"at {join_list(at)}"
        if at:
            parts.append(f"the {NAMES[name]} is faster {where}" if name else f"they are equally fast {where}")
    return join_list(parts)


def _streams(rows: Sequence[GrowingContextRow]) -> str:
    first, last = _ends(rows)
    kept = {name: _by_context(rows, name, max(row.rows for row in rows)) for name in NAMES}
    parts = [
        f"{_range(_count(found[first]), _count(found[last]))} streams of the {NAMES[name]}, whose states take"
        f" {_range(size(found[first].bytes), size(found[last].bytes))} a stream"
        for name, found in kept.items()
    ]
    bits = {row.model: row.bits for row in rows}
    better, worse = sorted(bits, key=lambda name: bits[name])
    return (
        f"At {RATE} characters per second and stream, one core keeps {', or '.join(parts)}; the"
        f" {NAMES[better]} predicts the test text better, by {bits[better]:.2f} bits a character against"
        f" {bits[worse]:.2f}."
    )


def _count(row: GrowingContextRow) -> str:
    return figures(streams_per_core(row), 2)


def _range(first: str, last: str) -> str:
    return first if first == last else f"{first} to {last}"


def _ends(rows: Sequence[GrowingContextRow]) -> tuple[int, int]:
    contexts = {row.context for row in rows}
    return min(contexts), max(contexts)


def _by_context(rows: Sequence[GrowingContextRow], model: str, streams: int) -> dict[int, GrowingContextRow]:
    return {row.context: row for row in rows if (row.model, row.rows) == (model, streams)}


def table(rows: Sequence[GrowingContextRow]) -> StudyTable:
    """One row per context: the step alone, memory, and streams per core, of both models."""
    alone, together = min(row.rows for row in rows), max(row.rows for row in rows)
    columns = ["characters of context"]
    columns += [f"{name}, step of {count}" for count in (alone, together) for name in NAMES.values()]
    columns += [f"{name}, {what}" for what in ("states", "streams per core") for name in NAMES.values()]
    found = {(name, count): _by_context(rows, name, count) for name in NAMES for count in (alone, together)}
    lines = []
    for context in sorted({row.context for row in rows}):
        times = [
            duration(found[name, count][context].seconds) for count in (alone, together) for name in NAMES
        ]
        held = [size(found[name, alone][context].bytes) for name in NAMES]
        kept = [_count(found[name, together][context]) for name in NAMES]
        lines.append((f"{context:,}", *times, *held, *kept))
    return StudyTable(tuple(columns), lines)


def panels(rows: Sequence[GrowingContextRow]) -> list[StudyPanel]:
    """Step time, memory and streams per core, by context."""
    alone, together = min(row.rows for row in rows), max(row.rows for row in rows)

    def lines(streams: int, value: Callable[[GrowingContextRow], float]) -> tuple[LineSeries, ...]:
        found = {name: _by_context(rows, name, streams) for name in NAMES}
        return tuple(
            LineSeries(NAMES[name], list(each), [value(row) for row in each.values()])
            for name, each in found.items()
        )

    charts = (
        ("One more character, one stream", "step (ms)", lines(alone, lambda row: row.seconds * 1e3)),
        ("Memory of a stream", "states (kB)", lines(alone, lambda row: row.bytes / 1e3)),
        (
            f"Streams per core, {RATE} characters/s each",
            f"streams, {together} in each step",
            lines(together, streams_per_core),
        ),
    )
    x_label = "context (characters)"
    return [StudyPanel(title, x_label, unit, each, log_x=True, log_y=True) for title, unit, each in charts]


STUDY = Study(
    name="growing-context",
    method=f"The step graphs of {LSTM} (two layers of 128) and {GPT} (four layers of 128), in ONNX Runtime "
    "on one thread, with states drawn at random. One stream in a step, or several ({rows}), which share it. "
    "Caches are padded to a power of two, as the server pads them. What the graphs copy counts; what the "
    "server adds (sampling, messages, its own copies) does not. Medians of processor time over {rounds} "
    "interleaved rounds. Streams per core is what the shared step leaves room for at "
    f"{RATE} characters per second and stream. Bits per character are those of the test text in "
    "models/README.md.",
    plan=GrowingContextPlan(),
    quick=GrowingContextPlan(contexts=(10, 100), rows=(1, 4), rounds=3),
    row=GrowingContextRow,
    measure=measure,
    finding=finding,
    table=table,
    panels=panels,
    check=check,
)
