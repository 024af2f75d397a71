"""A study on the terminal: its table and finding."""

from rich import box
from rich.console import Console
from rich.table import Table as Grid

from lockstep_studies.study import StudyResult, StudyTable

PIPED = 160  # columns if stdout is not a terminal


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
