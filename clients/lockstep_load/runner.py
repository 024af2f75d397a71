"""Makes the runs of a command and writes their results.

`Runner` combines worker processes, progress displays and the server's metrics; `write_results` writes the
files, prints the summary and exits with the command's exit code.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import typer

from lockstep_client.errors import LockstepError
from lockstep_client.interrupts import INTERRUPTED
from lockstep_client.tables import table, text
from lockstep_load import contrast, contrast_report, documents, report, summary
from lockstep_load.live_view import LiveView
from lockstep_load.progress import ProgressLines
from lockstep_load.results import (
    ContrastDocument,
    Document,
    RunDocument,
    ScenarioDocument,
    SearchDocument,
    SweepDocument,
    iter_runs,
)
from lockstep_load.server_metrics import Scraper
from lockstep_load.session import LoadSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from lockstep_load.option_groups import CommonOptions
    from lockstep_load.plan import LoadProfile, Target, Workload

NOT_MEASURED, INVALID, WORSE = 1, 3, 4
NOT_WRITTEN = 1


class Runner:
    """Makes runs one after another. Use it as a context manager."""

    def __init__(self, options: CommonOptions, processes: int) -> None:
        self._options = options
        self._stack = ExitStack()
        self._observers: list[LiveView | ProgressLines] = [LiveView(quiet=options.quiet)]
        if options.jsonl:
            self._observers.append(self._stack.enter_context(ProgressLines(options.jsonl)))
        self._session = self._stack.enter_context(LoadSession(processes, self._observers, options.max_lag_ms))

    @property
    def interrupted(self) -> bool:
        """Whether an interrupt was received, so that no more runs should be made."""
        return self._session.interrupted

    def run(self, name: str, target: Target, workload: Workload, load: LoadProfile) -> RunDocument:
        """Make one run; the document includes its name and the server's metrics."""
        for one in self._observers:
            one.title = name
        if not self._options.metrics:
            return msgspec.structs.replace(self._session.run(target, workload, load), name=name)
        with Scraper(self._options.metrics, target) as scraper:
            document = self._session.run(target, workload, load, scraper.observe)
        return msgspec.structs.replace(document, name=name, server_metrics=scraper.result())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


@contextmanager
def report_errors() -> Iterator[None]:
    """Turn client errors into one line on stderr and exit code 1, and ValueError into wrong usage."""
    try:
        yield
    except LockstepError as error:
        print(f"lockstep: {' '.join(error.message.split())}", file=sys.stderr)
        raise typer.Exit(NOT_MEASURED) from None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def write_results(document: Document, common: CommonOptions) -> None:
    """Write the files, print the summary and exit.

    Files come first, since a terminal may be blocked or closed. A file that cannot be written does not
    prevent the others or the summary.
    """
    to_stdout = str(common.json_file) == "-"
    files = ((None if to_stdout else common.json_file, documents.write), (common.html, report.write))
    written = {path: try_write(path, write, document) for path, write in files if path}
    if to_stdout:
        print(json.dumps(documents.to_json(document)))
    elif str(common.jsonl) != "-":
        show(document)
        for path in (common.json_file, common.jsonl, common.html):
            if path and written.get(path, True):
                print(f"written: {path}")
    raise typer.Exit(exit_code(document) if all(written.values()) else NOT_WRITTEN)


def try_write(path: Path, write: Callable[[Path, Any], None], document: Any) -> bool:
    """Write a file. On error, print it to stderr and return False."""
    try:
        write(path, document)
    except OSError as error:
        print(f"lockstep: cannot write {path}: {error.strerror or error}", file=sys.stderr)
        return False
    return True


def show(document: Document) -> None:
    """Print the summary of any document."""
    if isinstance(document, RunDocument):
        summary.show(document)
    elif isinstance(document, ContrastDocument):
        contrast_report.show(document)
    elif isinstance(document, SearchDocument):
        _show_table(document.runs)
        text(f"\n{summary.search_sentence(document.search)}")
    elif isinstance(document, SweepDocument):
        _show_runs(document.runs)
    else:
        _show_runs(list(iter_runs(document)))
        print()
        for line in result_lines(document):
            text(line)


def exit_code(document: Document) -> int:
    """The exit code for a document: 0 if it is a valid measurement."""
    runs = list(iter_runs(document))
    if document.partial:
        return INTERRUPTED
    if not any(one.ok or one.rates.ok for one in runs):
        return NOT_MEASURED
    return 0 if is_valid(document) else INVALID


def is_valid(document: Document) -> bool:
    """Whether the document measures the server and not the generator."""
    if isinstance(document, ContrastDocument):
        return contrast.is_complete(list(iter_runs(document)))
    # A search goes to the limit, where the generator may fall behind: its probes do not count.
    return all(one.valid for one in iter_runs(document, searched=False))


def result_lines(document: ScenarioDocument) -> Iterator[str]:
    """The result of each entry of a scenario."""
    for one in document.runs:
        if isinstance(one, SearchDocument):
            yield f"{one.name}: {summary.search_sentence(one.search)}"
        elif isinstance(one, RunDocument) and one.result:
            yield f"{one.name}: {summary.result_line(one.result)}"
            if one.drift:
                yield from (f"{one.name}: {line}" for line in summary.drift_lines(one.drift))


def _show_table(runs: Sequence[RunDocument]) -> None:
    shown = report.runs_table(runs)
    table(shown.header, shown.rows, left=2)


def _show_runs(runs: Sequence[RunDocument]) -> None:
    _show_table(runs)
    for one in runs:
        for reason in one.reasons:
            text(f"INVALID: {one.name}: {reason}")
