"""A study: a question, how it is measured, and the finding that follows from the numbers.

plan, settings → measure → rows → finding (two sentences), table, panels. Everything except `measure` is
pure, so a README regenerated from saved rows has the same text.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

P = TypeVar("P")  # a study's plan: a frozen dataclass of plain values, saved with the result
R = TypeVar("R")  # a study's row: the same

QUESTIONS = {
    "sequential-cost": "What does reading one position after the other cost, by length?",
    "gradients": "How much of a loss at the end reaches the input some steps back?",
    "long-range": "Which layers can repeat a signal from some positions ago?",
    "receptive-field": "How far does a change of one word reach?",
    "long-sequence-cost": "What do long sequences cost, in time and in memory?",
    "growing-context": "What does one more character cost: with a state of constant size, and with a cache?",
    "comparison": "Which sentiment model is worth what it costs?",
}
"""Of each study, by its name: the command line lists them without PyTorch."""

ReportProgress = Callable[[int, int, str], None]
"""Called with the number of finished parts, the total, and a description of the next part."""


@dataclass(frozen=True)
class StudySettings:
    """Settings that all studies share."""

    models: Path  # the model repository, for studies that examine or serve its models
    seed: int = 1
    quick: bool = False  # small settings that take seconds: to check that everything runs, not for results


@dataclass(frozen=True)
class StudyTable:
    """Formatted cells; the first column is text, the others are numbers."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


@dataclass(frozen=True)
class LineSeries:
    """One line of a chart."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    variant_of: str = ""  # label of another line: drawn dotted, in that line's colour


@dataclass(frozen=True)
class Bar:
    """One bar of a bar chart."""

    label: str
    value: float
    error: float  # half the length of the error bar


@dataclass(frozen=True)
class Grid:
    """A heat map: a share between 0 and 1 for each row and column. For data whose lines would overlap."""

    labels: Sequence[str]
    columns: Sequence[str]
    shares: Sequence[Sequence[float]]  # a row for each label
    unit: str


@dataclass(frozen=True)
class StudyPanel:
    """One chart: lines over x, labelled bars, or a grid."""

    title: str
    x_label: str  # with its unit
    y_label: str
    lines: tuple[LineSeries, ...] = ()
    bars: tuple["Bar", ...] = ()  # horizontal; the first one at the top
    grid: Grid | None = None
    marks: bool = True  # a mark at each point; off if points are dense
    log_x: bool = False
    log_y: bool = False
    x_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Study(Generic[P, R]):
    """One question and how it is answered."""

    name: str  # a key of QUESTIONS
    method: str  # how it is measured; names in braces are replaced by the plan's values
    plan: P
    quick: P
    row: type[R]
    measure: Callable[[P, StudySettings, ReportProgress], list[R]]
    finding: Callable[[Sequence[R]], str]
    table: Callable[[Sequence[R]], StudyTable]
    panels: Callable[[Sequence[R]], list[StudyPanel]]
    check: Callable[[StudySettings], None] = lambda _: None
    """Raises ExportError if something that the measurement needs is missing."""

    @property
    def question(self) -> str:
        """What it answers."""
        return QUESTIONS[self.name]

    def run(self, settings: StudySettings, progress: ReportProgress) -> "StudyResult":
        """Measures with `plan`, or with `quick` if the settings say so."""
        plan = self.quick if settings.quick else self.plan
        rows = self.measure(plan, settings, progress)
        used: dict[str, Any] = {"quick": settings.quick, "seed": settings.seed, **asdict(plan)}  # type: ignore[call-overload]
        return StudyResult(self, used, rows)


AnyStudy = Study[Any, Any]


@dataclass(frozen=True)
class StudyResult:
    """The rows that a study measured, and the settings it ran with."""

    study: AnyStudy
    settings: dict[str, Any]
    rows: Sequence[Any]

    @property
    def finding(self) -> str:
        """Two sentences, generated from the rows."""
        return self.study.finding(self.rows)

    @property
    def method(self) -> str:
        """How it was measured."""
        return self.study.method.format(**{name: _format(value) for name, value in self.settings.items()})

    @property
    def table(self) -> StudyTable:
        """The rows, or the most important ones, as text."""
        return self.study.table(self.rows)

    @property
    def panels(self) -> list[StudyPanel]:
        """The charts of the SVG file."""
        return self.study.panels(self.rows)


@dataclass(frozen=True)
class StudyRecord:
    """A result, with the date and machine of the measurement."""

    result: StudyResult
    day: str
    seconds: float  # duration of the measurement
    machine: dict[str, Any]
    versions: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """The content of NAME.json; the rows come last."""
        study = self.result.study
        return {
            "study": study.name,
            "question": study.question,
            "finding": self.result.finding,
            "method": self.result.method,
            "day": self.day,
            "seconds": round(self.seconds, 1),
            "machine": self.machine,
            "versions": self.versions,
            "settings": self.result.settings,
            "rows": [asdict(row) for row in self.result.rows],
        }


def _format(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_format(part) for part in value)
    return f"{value:,}" if isinstance(value, int) else str(value)
