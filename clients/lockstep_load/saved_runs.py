"""Commands on saved documents: compare two, or show one."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from lockstep_client.tables import text
from lockstep_load import compare as comparison
from lockstep_load import documents, options, report, runner, summary
from lockstep_load.results import Document, RunDocument, iter_runs


def compare(
    first: Annotated[Path, typer.Argument(metavar="A.json", help="JSON report of the first run.")],
    second: Annotated[Path, typer.Argument(metavar="B.json", help="JSON report of the second run.")],
    json_file: options.Json = None,
) -> None:
    """Compare two runs: ratios of the second to the first, with 95% confidence intervals.

    Exit code 4 if both are valid and the second is significantly worse; 3 if one is invalid; otherwise 0.
    The intervals are a block bootstrap over the runs' seconds; runs shorter than 5 seconds have none.
    Documents of several runs are compared by run name.
    """
    with runner.report_errors():
        both = documents.read(first), documents.read(second)
        pairs = _pairs(*both)
        _check_loops(pairs)
        rows = {name: comparison.compare_runs(a, b) for name, a, b in pairs}
    to_stdout = str(json_file) == "-"
    kept = not json_file or to_stdout or runner.try_write(json_file, documents.write, rows)
    if to_stdout:
        print(json.dumps(documents.to_json(rows)))
    else:
        for name, some in rows.items():
            print(name)
            summary.show_comparison(some)
        for note in _differences(pairs):
            text(f"note: {note}")
    if not kept:
        raise typer.Exit(runner.NOT_WRITTEN)
    sound = [name for name, a, b in pairs if a.valid and b.valid]
    if any(comparison.regressions(rows[name]) for name in sound):
        raise typer.Exit(runner.WORSE)
    raise typer.Exit(0 if all(runner.is_valid(one) for one in both) else runner.INVALID)


def show_report(
    file: Annotated[Path, typer.Argument(metavar="FILE.json", help="JSON report written by --json.")],
    html: options.Html = None,
) -> None:
    """Print the summary of a saved report, or render it as HTML."""
    with runner.report_errors():
        both = documents.read(file)
    if html:
        if not runner.try_write(html, report.write, both):
            raise typer.Exit(runner.NOT_WRITTEN)
        print(f"written: {html}")
    else:
        runner.show(both)


def _pairs(first: Document, second: Document) -> list[tuple[str, RunDocument, RunDocument]]:
    """Pair the runs by name; two single runs are a pair regardless of their names."""
    if isinstance(first, RunDocument) and isinstance(second, RunDocument):
        return [(f"{_run_name(first)} → {_run_name(second)}", first, second)]
    named = {one.name: one for one in iter_runs(second)}
    pairs = [(one.name, one, named[one.name]) for one in iter_runs(first) if one.name in named]
    if not pairs:
        raise ValueError("the two documents have no run name in common")
    return pairs


def _check_loops(pairs: list[tuple[str, RunDocument, RunDocument]]) -> None:
    """
    Raises:
        ValueError: an open loop is compared with a closed one, whose callers wait: their latencies and rates
            are no measure of each other.
    """
    for name, first, second in pairs:
        one, other = first.load.loop, second.load.loop
        if one != other:
            why = "callers of a closed loop wait for answers; compare runs of one kind"
            raise ValueError(f"{name}: the first run is {one} loop, the second {other}; {why}")


def _run_name(run: RunDocument) -> str:
    return f"{run.target.model} {run.started_at}"


def _differences(pairs: list[tuple[str, RunDocument, RunDocument]]) -> Iterator[str]:
    """Differences other than the server: load settings and validity."""
    for name, a, b in pairs:
        after = b.load.settings()
        for key, value in a.load.settings().items():
            if value != after.get(key) and key != "seed":
                yield f"{name}: {key} was {value}, then {after.get(key)}"
        for which, one in (("first", a), ("second", b)):
            if not one.valid:
                yield f"{name}: the {which} run is invalid: {one.reasons[0]}"
