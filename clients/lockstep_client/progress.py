"""Progress of what a person waits for: a bar on a terminal, plain lines otherwise, with an estimate.

begin → `update(done, total, what)`, as often as one likes → end. It goes to stderr; the bar disappears at the
end. In a pipe or a file, a line is written after two seconds and then ever more seldom, without escapes.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from rich.progress import Progress

LINE_S, LINES_PER_TIME = 2.0, 0.1
"""A plain line comes after `LINE_S`, and then whenever a tenth more time has passed."""


class ProgressDisplay:
    """Shows how far something is, within a `with` block.

    Args:
        title: what one waits for.
        quiet: show nothing.
        out: where to; default: stderr.
    """

    def __init__(
        self,
        title: str,
        *,
        quiet: bool = False,
        out: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title, self._quiet, self._out, self._clock = title, quiet, out or sys.stderr, clock
        self._bar: Progress | None = None
        self._begun, self._next_s = clock(), LINE_S
        self._first: float | None = None  # what was done when this began

    def __enter__(self) -> Self:
        self._begun = self._clock()
        if not self._quiet and self._out.isatty():
            self._bar = _bar(self._title, self._out)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: float, total: float, what: str = "") -> None:
        """`done` of `total` is done, and `what` is being done. Whole numbers are shown as they are, others
        as a percentage; a total of 0 is not known."""
        if self._bar is not None:
            [task] = self._bar.task_ids
            description = "  ".join(filter(None, (self._title, _amount(done, total), what)))
            self._bar.update(task, completed=done, total=total or None, description=description)
        elif not self._quiet:
            self._line(done, total, what)

    def _line(self, done: float, total: float, what: str) -> None:
        seconds = self._clock() - self._begun
        self._first = done if self._first is None else self._first
        if seconds >= self._next_s:
            self._next_s = max(seconds * (1 + LINES_PER_TIME), seconds + LINE_S)
            self._out.write(line(self._title, done, total, what, seconds, self._first) + "\n")
            self._out.flush()


def line(title: str, done: float, total: float, what: str, seconds: float, first: float = 0.0) -> str:
    """One line: how far it is after `seconds`, and about how long the rest takes if the pace since `first`
    stays."""
    left = ""
    if first < done < total:
        left = f", about {_duration(seconds * (total - done) / (done - first))} left"
    parts = (_amount(done, total), what, f"{_duration(seconds)}{left}")
    return f"{title}: {', '.join(filter(None, parts))}"


def _amount(done: float, total: float) -> str:
    if not total:
        return ""
    if isinstance(done, int) and isinstance(total, int):
        return f"{done:,} of {total:,}"
    return f"{done / total:.0%}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _bar(title: str, out: TextIO) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.table import Column

    bar = Progress(
        BarColumn(20),
        TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=7)),
        TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=7)),
        TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
        ),
        console=Console(file=out),
        expand=True,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    bar.add_task(title, total=None)
    return bar
