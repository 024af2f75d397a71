"""A study on the terminal: progress while it measures (on stderr), then its table and finding."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as Grid

from lockstep_studies.study import ReportProgress, StudyResult, StudyTable

PIPED = 160  # columns if stdout is not a terminal


@contextmanager
def progress_bar(name: str) -> Iterator[ReportProgress]:
    """Shows a progress bar on stderr while the block runs, if stderr is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name)

        def progress(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=f"{name}  {what}")

        yield progress


def show(result: StudyResult) -> None:
    """Prints the question, the table and the finding."""
    console = Console()
    if not console.is_terminal:
        console.width = PIPED
    console.print(f"\n[bold]{result.study.name}[/]: {result.study.question}\n", highlight=False)
    console.print(_grid(result.table))
    console.print(result.finding, highlight=False)


def _grid(table: StudyTable) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD)
    for index, column in enumerate(table.columns):
        grid.add_column(column, justify="right" if index else "left", overflow="fold")
    for row in table.rows:
        grid.add_row(*row)
    return grid
