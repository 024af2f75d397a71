"""Receptive field: one word of a text is changed; how far away do the states of a trained model change?

random ids [texts, positions] → a shipped graph, opened up at its last layer that has a state for each word
    → the same with the middle word another one → |difference| / |state| at each distance

The models are those of the repository. Their graphs give the answer only; here they also give what is inside
(graph surgery on a copy in memory), so nothing has to be trained or defined again.
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
from lockstep_studies.formatting import figures, listed
from lockstep_studies.study import LineSeries, Study, StudyPanel, StudySettings, StudyTable, Watch

Array = np.ndarray[Any, Any]
GRAPH, FIRST_ID = Path("1", "model.onnx"), 2  # ids below are padding and the unknown word
MOVED = 1e-6  # share of a state: what is below is rounding


@dataclass(frozen=True)
class ProbedModel:
    """A model, and the operator whose results are its states: all of one layer, or the last one."""

    model: str
    operator: str
    words_axis: int  # of what the operator gives
    rows_axis: int
    parallel: bool = False  # several side by side make the state (filters of several widths)


SUBJECTS = (
    ProbedModel("sentiment-textcnn", "Conv", 2, 0, parallel=True),
    ProbedModel("captions-context-cnn", "Tanh", 0, 1),  # its states, every place at once
    ProbedModel("sentiment-rnn", "RNN", 0, 2),
    ProbedModel("sentiment-lstm", "LSTM", 0, 2),
    ProbedModel("sentiment-bilstm", "LSTM", 0, 2),
    ProbedModel("sentiment-transformer", "LayerNormalization", 1, 0),
)


@dataclass(frozen=True)
class ReceptiveFieldPlan:
    """What is read."""

    positions: int = 101  # the middle one is changed
    texts: int = 50


@dataclass(frozen=True)
class ReceptiveFieldRow:
    """One model."""

    model: str
    offsets: list[int]  # positions from the changed word; negative before it
    change: list[float]  # of the state there, as a share of it: the median over texts
    before: int  # how far back any text's states moved
    after: int  # and how far on

    @property
    def edge(self) -> int:
        """How far the texts go on either side."""
        return self.offsets[-1]

    @property
    def windowed(self) -> bool:
        """True where the change reaches neither end."""
        return max(self.before, self.after) < self.edge

    def at(self, offset: int) -> float:
        """The change there."""
        return self.change[self.offsets.index(offset)]


def check(settings: StudySettings) -> None:
    """Needs one of the models, and knows the graphs of those that are there."""
    present = _present(settings.models)
    if not present:
        names = ", ".join(subject.model for subject in SUBJECTS)
        raise ExportError(f"none of {names} in {settings.models}: name the repository with --models")
    for subject in present:
        opened(settings.models / subject.model / GRAPH, subject)


def _present(models: Path) -> list[ProbedModel]:
    return [subject for subject in SUBJECTS if (models / subject.model / GRAPH).is_file()]


def measure(plan: ReceptiveFieldPlan, settings: StudySettings, watch: Watch) -> list[ReceptiveFieldRow]:
    """Changes a word in every model that is there."""
    subjects = _present(settings.models)
    rows = []
    for done, subject in enumerate(subjects):
        watch(done, len(subjects), subject.model)
        folder = settings.models / subject.model
        texts, changed = pair(plan, vocabulary(folder), np.random.default_rng(settings.seed))
        session = opened(folder / GRAPH, subject)
        rows.append(compared(subject.model, *(_states(session, subject, ids) for ids in (texts, changed))))
    return rows


def pair(plan: ReceptiveFieldPlan, size: int, chance: np.random.Generator) -> tuple[Array, Array]:
    """ids [texts, positions], and the same with other ids in the middle."""
    texts = chance.integers(FIRST_ID, size, (plan.texts, plan.positions))
    changed, middle = texts.copy(), plan.positions // 2
    step = chance.integers(1, size - FIRST_ID, plan.texts)  # never a whole turn: always another id
    changed[:, middle] = (texts[:, middle] - FIRST_ID + step) % (size - FIRST_ID) + FIRST_ID
    return texts, changed


def vocabulary(folder: Path) -> int:
    """How many ids the model knows, by its manifest."""
    manifest = tomllib.loads((folder / "model.toml").read_text(encoding="utf-8"))
    end: int = manifest["inputs"]["tokens"]["range"][1]
    return end


def opened(path: Path, subject: ProbedModel) -> InferenceSession:
    """The graph, whose only outputs are its states."""
    model = onnx.load(path)
    found = [node.output[0] for node in model.graph.node if node.op_type == subject.operator]
    if not found:
        raise ExportError(f"{path} has no {subject.operator}: it is not the model that this study knows")
    states = found if subject.parallel else found[-1:]
    del model.graph.output[:]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in states)
    options = SessionOptions()
    options.intra_op_num_threads = 1
    return InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _states(session: InferenceSession, subject: ProbedModel, ids: Array) -> Array:
    """[texts, positions, width]: all that the model holds at each word."""
    given = {"tokens": ids, "lengths": np.full(len(ids), ids.shape[1]), "mask": np.ones(ids.shape, bool)}
    wanted = {one.name: given[one.name] for one in session.get_inputs()}
    parts = [_in_front(np.asarray(part), subject, ids) for part in session.run(None, wanted)]
    return np.concatenate([part.reshape(*part.shape[:2], -1) for part in parts], axis=2)


def _in_front(part: Array, subject: ProbedModel, ids: Array) -> Array:
    """[texts, positions, …]; a product over all places at once has one axis for both."""
    if part.ndim == 2:
        part = part.reshape(ids.shape[1], len(ids), -1)
    return np.moveaxis(part, (subject.rows_axis, subject.words_axis), (0, 1))


def compared(model: str, states: Array, changed: Array) -> ReceptiveFieldRow:
    """The row of two sets of states [texts, positions, width] whose texts differ in the middle word."""
    moved = np.linalg.norm(changed - states, axis=2) / np.linalg.norm(states, axis=2)  # [texts, positions]
    middle = moved.shape[1] // 2
    offsets = [place - middle for place in range(moved.shape[1])]
    reached = [offset for offset, most in zip(offsets, moved.max(axis=0), strict=True) if most > MOVED]
    change = [float(f"{share:.3g}") for share in np.median(moved, axis=0)]
    return ReceptiveFieldRow(model, offsets, change, max(0, -min(reached)), max(0, *reached))


def finding(rows: Sequence[ReceptiveFieldRow]) -> str:
    """Where a window ends; how far and how strongly a change reaches where there is none."""
    windowed = [row for row in rows if row.windowed]
    return f"{_windows(windowed)} {_without([row for row in rows if not row.windowed])}"


def _windows(rows: Sequence[ReceptiveFieldRow]) -> str:
    if not rows:
        return "A changed word reaches an end of the text in every model here: none of them has a window."
    told = [f"from {row.before} words before it to {row.after} after it in {row.model}" for row in rows]
    widths = listed([str(row.before + row.after + 1) for row in rows])
    windows = f"windows of {widths} words" if len(rows) > 1 else f"a window of {widths} words"
    return f"A changed word moves the states {listed(told)}: {windows}, and nothing past."


def _without(rows: Sequence[ReceptiveFieldRow]) -> str:
    one_way = [row for row in rows if not row.before]
    both_ways = [row for row in rows if row.before]
    parts = []
    if one_way:
        parts.append(
            f"{_names(one_way)} {_verb(one_way)} it on to the end and never back, {_fading(one_way)}"
        )
    if both_ways:
        parts.append(f"{_names(both_ways)} {_verb(both_ways)} it both ways, {_fading(both_ways)}")
    return f"{'; '.join(parts)}." if parts else "No model here carries it to an end of the text."


def _names(rows: Sequence[ReceptiveFieldRow]) -> str:
    return listed([row.model for row in rows])


def _verb(rows: Sequence[ReceptiveFieldRow]) -> str:
    return "carry" if len(rows) > 1 else "carries"


def _fading(rows: Sequence[ReceptiveFieldRow]) -> str:
    """What changes at the next word, and what at the far end."""
    edge = rows[0].edge
    near, far = (listed([_share(row.at(offset)) for row in rows]) for offset in (1, edge))
    return f"changing {near} of the state at the next word and {far} at the {edge}th"


def _share(value: float) -> str:
    return f"{figures(value * 100, 2)}%"


def table(rows: Sequence[ReceptiveFieldRow]) -> StudyTable:
    """A row a model: reach, and the change at a few distances."""
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
    reach = (_reach(row.before, row.edge), _reach(row.after, row.edge))
    return (row.model, *reach, *(_share(row.at(offset)) if row.at(offset) else "0" for offset in shown))


def _reach(words: int, edge: int) -> str:
    return "all" if words == edge else str(words)


def panels(rows: Sequence[ReceptiveFieldRow]) -> list[StudyPanel]:
    """The change by distance."""
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
    question="How far does a change of one word reach?",
    method="The trained models of the repository under ONNX Runtime, on {texts} texts of {positions} random "
    "words whose middle word is changed. What is compared is the state at each word (the features of a "
    "convolution, the states of a recurrent layer, the last normalised output of the Transformer): medians "
    "over the texts; a reach is the farthest place that moved in any text by more than a millionth.",
    plan=ReceptiveFieldPlan(),
    quick=ReceptiveFieldPlan(positions=31, texts=5),
    row=ReceptiveFieldRow,
    measure=measure,
    finding=finding,
    table=table,
    panels=panels,
    check=check,
)
