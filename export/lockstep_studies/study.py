"""What a study is: a question, how it is measured, and what follows from the numbers.

plan, settings → measure → rows → finding (two sentences), table, panels. All but `measure` is pure, so a
page that is written again from kept rows says the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

P = TypeVar("P")  # a study's plan: a frozen dataclass of plain values, kept with the result
R = TypeVar("R")  # a study's row: the same

Watch = Callable[[int, int, str], None]
"""Told of progress: how many parts are done, of how many, and what comes next."""


@dataclass(frozen=True)
class StudySettings:
    """What every study is run with."""

    models: Path  # the model repository, for the studies that look into it or serve it
    seed: int = 1
    quick: bool = False  # small settings, in seconds: to see that everything runs, not to be believed


@dataclass(frozen=True)
class StudyTable:
    """Cells as they are read; the first column is text, the others are numbers."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


@dataclass(frozen=True)
class LineSeries:
    """One contender of a chart."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    kin: str = ""  # label of the line whose variant this is: its colour, dotted


@dataclass(frozen=True)
class Bar:
    """One contender of a chart that has no x."""

    label: str
    value: float
    error: float  # on either side


@dataclass(frozen=True)
class Grid:
    """A share of one for each pair of a contender and a column: for what would be lines upon lines."""

    labels: Sequence[str]
    columns: Sequence[str]
    shares: Sequence[Sequence[float]]  # a row for each label
    unit: str


@dataclass(frozen=True)
class StudyPanel:
    """One chart of a picture: lines over x, bars with a name each, or a grid."""

    title: str
    x_label: str  # with its unit
    y_label: str
    lines: tuple[LineSeries, ...] = ()
    bars: tuple["Bar", ...] = ()  # horizontal; the first one at the top
    grid: Grid | None = None
    marks: bool = True  # a mark at each point: off where they are dense
    log_x: bool = False
    log_y: bool = False
    x_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Study(Generic[P, R]):
    """One question and the way to its answer."""

    name: str
    question: str
    method: str  # how it is measured, with the plan's values in braces
    plan: P
    quick: P
    row: type[R]
    measure: Callable[[P, StudySettings, Watch], list[R]]
    finding: Callable[[Sequence[R]], str]
    table: Callable[[Sequence[R]], StudyTable]
    panels: Callable[[Sequence[R]], list[StudyPanel]]
    check: Callable[[StudySettings], None] = lambda _: None
    """Raises ExportError for what is missing, before any time is spent."""

    def run(self, settings: StudySettings, watch: Watch) -> "StudyResult":
        """Measures, by the plan or, with `quick`, by the small one."""
        plan = self.quick if settings.quick else self.plan
        rows = self.measure(plan, settings, watch)
        told: dict[str, Any] = {"quick": settings.quick, "seed": settings.seed, **asdict(plan)}  # type: ignore[call-overload]
        return StudyResult(self, told, rows)


AnyStudy = Study[Any, Any]


@dataclass(frozen=True)
class StudyResult:
    """What a study measured, and with what settings."""

    study: AnyStudy
    settings: dict[str, Any]
    rows: Sequence[Any]

    @property
    def finding(self) -> str:
        """Two sentences, made of the rows."""
        return self.study.finding(self.rows)

    @property
    def method(self) -> str:
        """How it was measured."""
        return self.study.method.format(**{name: _told(value) for name, value in self.settings.items()})

    @property
    def table(self) -> StudyTable:
        """The rows, or the key ones."""
        return self.study.table(self.rows)

    @property
    def panels(self) -> list[StudyPanel]:
        """The charts of its picture."""
        return self.study.panels(self.rows)


def _told(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_told(part) for part in value)
    return f"{value:,}" if isinstance(value, int) else str(value)
