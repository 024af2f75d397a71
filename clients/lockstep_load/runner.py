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
from lockstep_load import contrast, contrast_report, documents, report, summary
from lockstep_load.live_view import LiveView
from lockstep_load.progress import ProgressLines
from lockstep_load.server_metrics import Scraper
from lockstep_load.session import LoadSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from lockstep_load.documents import Document
    from lockstep_load.option_groups import CommonOptions
    from lockstep_load.plan import LoadProfile, Target, Workload

NOT_MEASURED, INVALID, WORSE = 1, 3, 4
NOT_WRITTEN = 1


class Runner:
    """Makes runs, one after another. Use it in a `with`."""

    def __init__(self, common: CommonOptions, processes: int) -> None:
        self._place = common
        self._stack = ExitStack()
        self._watchers: list[LiveView | ProgressLines] = [LiveView(quiet=common.quiet)]
        if common.jsonl:
            self._watchers.append(self._stack.enter_context(ProgressLines(common.jsonl)))
        self._session = self._stack.enter_context(LoadSession(processes, self._watchers, common.max_lag_ms))

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
            made = self._session.run(target, workload, load, scraper.observe)
        return {**made, "name": name, "server_metrics": scraper.result()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


@contextmanager
def report_errors() -> Iterator[None]:
    """Errors that end a command, in a line."""
    try:
        yield
    except LockstepError as error:
        print(f"lockstep: {' '.join(error.message.split())}", file=sys.stderr)
        raise typer.Exit(NOT_MEASURED) from None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def write_results(made: Document, common: CommonOptions) -> None:
    """Write the files, then show it, then end with its exit code: a terminal may be slow, or gone. A file
    that cannot be written costs neither the others nor what is shown."""
    to_stdout = str(common.json_file) == "-"
    files = ((None if to_stdout else common.json_file, documents.write), (common.html, report.write))
    written = {path: try_write(path, write, made) for path, write in files if path}
    if to_stdout:
        print(json.dumps(made))
    elif str(common.jsonl) != "-":
        show(made)
        for path in (common.json_file, common.jsonl, common.html):
            if path and written.get(path, True):
                print(f"written: {path}")
    raise typer.Exit(exit_code(made) if all(written.values()) else NOT_WRITTEN)


def try_write(path: Path, write: Callable[[Path, Document], None], made: Document) -> bool:
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
        print(f"\n{summary.search_sentence(made)}")
    elif kind == "sweep":
        _show_runs(made["runs"])
    else:
        _show_runs(list(iter_runs(made)))
        print()
        for line in result_lines(made):
            print(line)


def exit_code(made: Document) -> int:
    """0 for what was measured and is valid."""
    runs = list(iter_runs(made))
    if made["partial"]:
        return INTERRUPTED
    if not any(one["outcomes"]["ok"] or one["rates"]["ok"] for one in runs):
        return NOT_MEASURED
    return 0 if is_valid(made) else INVALID


def is_valid(made: Document) -> bool:
    """Whether what it says is the server's doing, not the generator's."""
    if made["kind"] == "contrast":
        return contrast.is_complete(list(iter_runs(made)))
    # A search looks for where it ends: the generator may fall behind there.
    return all(one["valid"] for one in iter_runs(made, searched=False))


def iter_runs(made: Document, *, searched: bool = True) -> Iterator[Document]:
    """The runs within a document."""
    if made["kind"] == "run":
        yield made
    elif searched or made["kind"] != "search":
        for one in made["runs"]:
            yield from iter_runs(one, searched=searched)


def result_lines(made: Document) -> Iterator[str]:
    """The one number of each entry of a scenario."""
    for one in made["runs"]:
        if one["kind"] == "search":
            yield f"{one['name']}: {summary.search_sentence(one)}"
        elif "result" in one:
            yield f"{one['name']}: {summary.result_line(one['result'])}"
        if one.get("drift"):
            yield from (f"{one['name']}: {line}" for line in summary.drift_lines(one["drift"]))


def _show_table(runs: Sequence[Document]) -> None:
    shown = report.runs_table(runs)
    table(shown.header, shown.rows, left=2)


def _show_runs(runs: Sequence[Document]) -> None:
    _show_table(runs)
    for one in runs:
        for reason in one["reasons"]:
            print(f"INVALID: {one['name']}: {reason}")
