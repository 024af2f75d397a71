"""Shows the progress of an epoch on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

ProgressUpdate = Callable[
    [float, float], None
]  # called with the finished share of the epoch and the mean loss
ShowProgress = Callable[[str], AbstractContextManager[ProgressUpdate]]  # title → a progress bar for one epoch


def ignore_progress(_share: float, _loss: float) -> None:
    """Does nothing."""


@contextmanager
def no_progress(_head: str) -> Iterator[ProgressUpdate]:
    """Shows nothing."""
    yield ignore_progress


@contextmanager
def terminal_progress(head: str) -> Iterator[ProgressUpdate]:
    """A line on stderr that disappears when the epoch ends; nothing if stderr is not a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(30), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(head, total=1.0)

        def update(share: float, loss: float) -> None:
            progress.update(bar, completed=share, description=f"{head}  loss {loss:.3f}")

        yield update
