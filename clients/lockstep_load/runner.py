"""Where a command's runs are made: generator processes, who watches, the server's metrics, what comes out."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import typer

from lockstep_client.errors import LockstepError
from lockstep_client.interrupts import INTERRUPTED
from lockstep_client.tables import table
from lockstep_load import contrast, contrast_report, report, run_record, summary
from lockstep_load.live_view import LiveView
from lockstep_load.metrics import Scraper
from lockstep_load.progress import ProgressLines
from lockstep_load.session import LoadSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from lockstep_load.option_groups import OutputOptions
    from lockstep_load.plan import LoadProfile, Target, Workload
    from lockstep_load.run_record import Document

NOT_MEASURED, INVALID, WORSE = 1, 3, 4
NOT_WRITTEN = 1


class Runner:
    """Makes runs, one after another. Use it in a `with`."""

    def __init__(self, place: OutputOptions, processes: int) -> None:
        self._place = place
        self._stack = ExitStack()
        self._watchers: list[LiveView | ProgressLines] = [LiveView(quiet=place.quiet)]
        if place.jsonl:
            self._watchers.append(self._stack.enter_context(ProgressLines(place.jsonl)))
        self._session = self._stack.enter_context(LoadSession(processes, self._watchers, place.max_lag_ms))

    @property
    def interrupted(self) -> bool:
        """Whether to make no more."""
        return self._session.interrupted

    def run(self, name: str, target: Target, workload: Workload, load: LoadProfile) -> Document:
        """One run, with its name and the server's own count beside it."""
        for one in self._watchers:
            one.title = name
        if not self._place.metrics:
            return {**self._session.run(target, workload, load), "name": name}
        with Scraper(self._place.metrics, target.model) as scraper:
            made = self._session.run(target, workload, load, scraper.follow)
        return {**made, "name": name, "server_metrics": scraper.found()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


@contextmanager
def told() -> Iterator[None]:
    """Errors that end a command, in a line."""
    try:
        yield
    except LockstepError as error:
        print(f"lockstep: {' '.join(error.message.split())}", file=sys.stderr)
        raise typer.Exit(NOT_MEASURED) from None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def hand_out(made: Document, place: OutputOptions) -> None:
    """Write the files, then show it, then end with its exit code: a terminal may be slow, or gone. A file
    that cannot be written costs neither the others nor what is shown."""
    to_stdout = str(place.json_file) == "-"
    files = ((None if to_stdout else place.json_file, run_record.write), (place.html, report.write))
    kept = {path: written(path, write, made) for path, write in files if path}
    if to_stdout:
        print(json.dumps(made))
    elif str(place.jsonl) != "-":
        show(made)
        for path in (place.json_file, place.jsonl, place.html):
            if path and kept.get(path, True):
                print(f"written: {path}")
    raise typer.Exit(exit_code(made) if all(kept.values()) else NOT_WRITTEN)


def written(path: Path, write: Callable[[Path, Document], None], made: Document) -> bool:
    """Whether it is; why it is not, in a line."""
    try:
        write(path, made)
    except OSError as error:
        print(f"lockstep: {path} is not written: {error.strerror or error}", file=sys.stderr)
        return False
    return True


def show(made: Document) -> None:
    """Any document, in a terminal."""
    kind = made["kind"]
    if kind == "run":
        summary.show(made)
    elif kind == "contrast":
        contrast_report.show(made)
    elif kind == "search":
        _show_table(made["runs"])
        print(f"\n{summary.searched(made)}")
    elif kind == "sweep":
        _show_runs(made["runs"])
    else:
        _show_runs(list(leaves(made)))
        print()
        for line in results(made):
            print(line)


def exit_code(made: Document) -> int:
    """0 for what was measured and is valid."""
    runs = list(leaves(made))
    if made["partial"]:
        return INTERRUPTED
    if not any(one["outcomes"]["ok"] or one["rates"]["ok"] for one in runs):
        return NOT_MEASURED
    return 0 if is_valid(made) else INVALID


def is_valid(made: Document) -> bool:
    """Whether what it says is the server's doing, not the generator's."""
    if made["kind"] == "contrast":
        return contrast.complete(list(leaves(made)))
    # A search looks for where it ends: the generator may fall behind there.
    return all(one["valid"] for one in leaves(made, searched=False))


def leaves(made: Document, *, searched: bool = True) -> Iterator[Document]:
    """The runs within a document."""
    if made["kind"] == "run":
        yield made
    elif searched or made["kind"] != "search":
        for one in made["runs"]:
            yield from leaves(one, searched=searched)


def results(made: Document) -> Iterator[str]:
    """The one number of each entry of a scenario."""
    for one in made["runs"]:
        if one["kind"] == "search":
            yield f"{one['name']}: {summary.searched(one)}"
        elif "result" in one:
            yield f"{one['name']}: {summary.result(one['result'])}"
        if one.get("drift"):
            yield from (f"{one['name']}: {line}" for line in summary.drifted(one["drift"]))


def _show_table(runs: Sequence[Document]) -> None:
    told = report.runs_table(runs)
    table(told.header, told.rows, left=2)


def _show_runs(runs: Sequence[Document]) -> None:
    _show_table(runs)
    for one in runs:
        for reason in one["reasons"]:
            print(f"INVALID: {one['name']}: {reason}")
