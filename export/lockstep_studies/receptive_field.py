"""Receptive field: one word of a text is changed; how far away do the states of a trained model change?

random ids [texts, positions] → a shipped graph, with its last layer of one state per word as output
    → the same with another middle word → |difference| / |state| at each distance

The models are those of the repository. Their graphs output the answer only; here a copy in memory is changed
to output inner states, so nothing has to be trained or defined again.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnxruntime import InferenceSession, SessionOptions

from lockstep_export.errors import ExportError
from lockstep_studies.formatting import figures, join_list
from lockstep_studies.study import LineSeries, ReportProgress, Study, StudyPanel, StudySettings, StudyTable

Array = np.ndarray[Any, Any]
GRAPH, FIRST_ID = Path("1", "model.onnx"), 2  # ids below are padding and the unknown word
MOVED = 1e-6  # relative change of a state; smaller ones are rounding


@dataclass(frozen=True)
class ProbedModel:
    """A model, and the operator whose outputs are its states: every such node, or the last one."""

    model: str
    operator: str
    words_axis: int  # of the operator's output
    rows_axis: int
    parallel: bool = False  # parallel nodes together make the state (filters of several widths)


SUBJECTS = (
    ProbedModel("sentiment-textcnn", "Conv", 2, 0, parallel=True),
    ProbedModel("captions-context-cnn", "Tanh", 0, 1),  # its states, all positions at once
    ProbedModel("sentiment-rnn", "RNN", 0, 2),
    ProbedModel("sentiment-lstm", "LSTM", 0, 2),
    ProbedModel("sentiment-bilstm", "LSTM", 0, 2),
    ProbedModel("sentiment-transformer", "LayerNormalization", 1, 0),
)


@dataclass(frozen=True)
class ReceptiveFieldPlan:
    """The texts."""

    positions: int = 101  # the middle one is changed
    texts: int = 50


@dataclass(frozen=True)
class ReceptiveFieldRow:
    """One model."""

    model: str
    offsets: list[int]  # positions from the changed word; negative before it
    change: list[float]  # relative change of the state at each offset: the median over texts
    before: int  # the farthest change before the word, in any text
    after: int  # the farthest change after it

    @property
    def edge(self) -> int:
        """The largest offset on either side."""
        return self.offsets[-1]

    @property
    def windowed(self) -> bool:
        """True if the change reaches neither end of the texts."""
        return max(self.before, self.after) < self.edge

    def at(self, offset: int) -> float:
        """The change at `offset`."""
        return self.change[self.offsets.index(offset)]


def check(settings: StudySettings) -> None:
    """Raises ExportError if none of the models is in the repository, or if a graph lacks its operator."""
    present = _present_models(settings.models)
    if not present:
        names = ", ".join(subject.model for subject in SUBJECTS)
        raise ExportError(f"none of {names} in {settings.models}: set the model repository with --models")
    for subject in present:
        open_states(settings.models / subject.model / GRAPH, subject)


def _present_models(models: Path) -> list[ProbedModel]:
    return [subject for subject in SUBJECTS if (models / subject.model / GRAPH).is_file()]


def measure(
    plan: ReceptiveFieldPlan, settings: StudySettings, progress: ReportProgress
) -> list[ReceptiveFieldRow]:
    """Compares the states before and after the change, for every model in the repository."""
    subjects = _present_models(settings.models)
    rows = []
    for done, subject in enumerate(subjects):
        progress(done, len(subjects), subject.model)
        folder = settings.models / subject.model
        texts, changed = draw_texts(plan, vocabulary(folder), np.random.default_rng(settings.seed))
        session = open_states(folder / GRAPH, subject)
        rows.append(
            compare_states(subject.model, *(_states(session, subject, ids) for ids in (texts, changed)))
        )
    return rows


def draw_texts(plan: ReceptiveFieldPlan, size: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Returns ids [texts, positions], and the same with other ids in the middle."""
    texts = rng.integers(FIRST_ID, size, (plan.texts, plan.positions))
    changed, middle = texts.copy(), plan.positions // 2
    step = rng.integers(1, size - FIRST_ID, plan.texts)  # less than a full cycle, so always another id
    changed[:, middle] = (texts[:, middle] - FIRST_ID + step) % (size - FIRST_ID) + FIRST_ID
    return texts, changed


def vocabulary(folder: Path) -> int:
    """The size of the model's vocabulary, by its manifest."""
    manifest = tomllib.loads((folder / "model.toml").read_text(encoding="utf-8"))
    end: int = manifest["inputs"]["tokens"]["range"][1]
    return end


def open_states(path: Path, subject: ProbedModel) -> InferenceSession:
    """Opens the graph with its states as the only outputs."""
    model = onnx.load(path)
    found = [node.output[0] for node in model.graph.node if node.op_type == subject.operator]
    if not found:
        raise ExportError(f"{path} has no {subject.operator} node: this study does not support the model")
    states = found if subject.parallel else found[-1:]
    del model.graph.output[:]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in states)
    options = SessionOptions()
    options.intra_op_num_threads = 1
    return InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _states(session: InferenceSession, subject: ProbedModel, ids: Array) -> Array:
    """Returns the states at each word [texts, positions, width]."""
    available = {"tokens": ids, "lengths": np.full(len(ids), ids.shape[1]), "mask": np.ones(ids.shape, bool)}
    inputs = {one.name: available[one.name] for one in session.get_inputs()}
    parts = [_in_front(np.asarray(part), subject, ids) for part in session.run(None, inputs)]
    return np.concatenate([part.reshape(*part.shape[:2], -1) for part in parts], axis=2)


def _in_front(part: Array, subject: ProbedModel, ids: Array) -> Array:
    """Returns [texts, positions, …]; a matrix product over all positions has one axis for both."""
    if part.ndim == 2:
        part = part.reshape(ids.shape[1], len(ids), -1)
    return np.moveaxis(part, (subject.rows_axis, subject.words_axis), (0, 1))


def compare_states(model: str, states: Array, changed: Array) -> ReceptiveFieldRow:
    """Compares two sets of states [texts, positions, width] whose texts differ in the middle word."""
    moved = np.linalg.norm(changed - states, axis=2) / np.linalg.norm(states, axis=2)  # [texts, positions]
    middle = moved.shape[1] // 2
    offsets = [place - middle for place in range(moved.shape[1])]
    reached = [offset for offset, most in zip(offsets, moved.max(axis=0), strict=True) if most > MOVED]
    change = [float(f"{share:.3g}") for share in np.median(moved, axis=0)]
    return ReceptiveFieldRow(model, offsets, change, max(0, -min(reached)), max(0, *reached))


def finding(rows: Sequence[ReceptiveFieldRow]) -> str:
    """The windows of the models that have one; the reach and strength of a change in the others."""
    windowed = [row for row in rows if row.windowed]
    return f"{_windows(windowed)} {_reaching_an_end([row for row in rows if not row.windowed])}"


def _windows(rows: Sequence[ReceptiveFieldRow]) -> str:
    if not rows:
        return "A changed word reaches an end of the text in every model here: none of them has a window."
    text = [f"from {row.before} words before it to {row.after} after it in {row.model}" for row in rows]
    widths = join_list([str(row.before + row.after + 1) for row in rows])
    windows = f"windows of {widths} words" if len(rows) > 1 else f"a window of {widths} words"
    return f"A changed word moves the states {join_list(text)}: {windows}, with no change outside."


def _reaching_an_end(rows: Sequence[ReceptiveFieldRow]) -> str:
    one_way = [row for row in rows if not row.before]
    both_ways = [row for row in rows if row.before]
    parts = []
    if one_way:
        carriers = f"{_names(one_way)} {_carry(one_way)}"
        parts.append(f"{carriers} it to the end of the text and never back, {_fading(one_way)}")
    if both_ways:
        parts.append(f"{_names(both_ways)} {_carry(both_ways)} it to both ends, {_fading(both_ways)}")
    return f"{'; '.join(parts)}." if parts else "In no model here does it reach an end of the text."


def _names(rows: Sequence[ReceptiveFieldRow]) -> str:
    return join_list([row.model for row in rows])


def _carry(rows: Sequence[ReceptiveFieldRow]) -> str:
    return "carry" if len(rows) > 1 else "carries"


def _fading(rows: Sequence[ReceptiveFieldRow]) -> str:
    """The change at the next word and at the far end."""
    edge = rows[0].edge
    near, far = (join_list([_share(row.at(offset)) for row in rows]) for offset in (1, edge))
    return f"changing {near} of the state at the next word and {far} at the {edge}th word"


def _share(value: float) -> str:
    return f"{figures(value * 100, 2)}%"


def table(rows: Sequence[ReceptiveFieldRow]) -> StudyTable:
    """One row per model: its reach, and the change at a few distances."""
    edge = rows[0].edge
    shown = [offset for offset in (-edge, -10, -3, -1, 0, 1, 3, 10, edge) if abs(offset) <= edge]
    columns = (
        "model",
        "words before",
        "words after",
        *(f"{offset:+d}" if offset else "itself" for offset in shown),
    )
    return StudyTable(columns, [_cells(row, shown) for row in rows])


def _cells(row: ReceptiveFieldRow, shown: Sequence[int]) -> tuple[str, ...]:
    reach = (_format_reach(row.before, row.edge), _format_reach(row.after, row.edge))
    return (row.model, *reach, *(_share(row.at(offset)) if row.at(offset) else "0" for offset in shown))


def _format_reach(words: int, edge: int) -> str:
    return "all" if words == edge else str(words)


def panels(rows: Sequence[ReceptiveFieldRow]) -> list[StudyPanel]:
    """The change of the states by distance."""
    lines = tuple(
        LineSeries(
            row.model, row.offsets, [100 * share if share > MOVED else float("nan") for share in row.change]
        )
        for row in rows
    )
    return [
        StudyPanel(
            "One word changed: how far do the states move?",
            "distance from the changed word (words)",
            "change of the state (% of it)",
            lines,
            log_y=True,
            marks=False,
        )
    ]


STUDY = Study(
    name="receptive-field",
    method="The trained models of the repository under ONNX Runtime, on {texts} texts of {positions} random "
    "words whose middle word is changed. The states at each word are compared (the features of a "
    "convolution, the states of a recurrent layer, the last normalised output of the Transformer): medians "
    "over the texts. Words before and after: the farthest position at which the state changes by more than a "
    "millionth in any text.",
    plan=ReceptiveFieldPlan(),
    quick=ReceptiveFieldPlan(positions=31, texts=5),
    row=ReceptiveFieldRow,
    measure=measure,
    finding=finding,
    table=table,
    panels=panels,
    check=check,
)
