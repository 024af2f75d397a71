"""How far an epoch has come, shown on a terminal while it runs; nowhere else is anything shown."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Watch = Callable[[float, float], None]  # is told the share of the epoch that is done, and the mean loss
Bars = Callable[[str], AbstractContextManager[Watch]]  # what stands before the bar → a bar for one epoch


def unwatched(_share: float, _loss: float) -> None:
    """Tells nobody."""


@contextmanager
def no_progress(_head: str) -> Iterator[Watch]:
    """Shows nothing."""
    yield unwatched


@contextmanager
def terminal_progress(head: str) -> Iterator[Watch]:
    """A line on stderr that goes when the epoch ends; nothing where stderr is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(30), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(head, total=1.0)

        def watch(share: float, loss: float) -> None:
            progress.update(bar, completed=share, description=f"{head}  loss {loss:.3f}")

        yield watch
