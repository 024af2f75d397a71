"""What is done with documents that were written: comparing two, and showing one again."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from lockstep_load import compare as comparison
from lockstep_load import documents, options, report, runner, summary


def compare(
    first: Annotated[Path, typer.Argument(metavar="A.json", help="A report of `run`: the one before.")],
    second: Annotated[Path, typer.Argument(metavar="B.json", help="Another: the one after.")],
    json_file: options.Json = None,
) -> None:
    """Two runs side by side: ratios of the second to the first, with 95% intervals.

    Exit code 4 where the second is worse beyond its interval, and both are valid; 3 where one is invalid, and
    so says nothing of its server; 0 else. The intervals are a block bootstrap of the runs' seconds; runs of
    fewer than 5 seconds have none. Documents of several runs are compared run by run, by name.
    """
    with runner.report_errors():
        made = documents.read(first), documents.read(second)
        pairs = _pairs(*made)
    rows = {name: comparison.compare_runs(a, b) for name, a, b in pairs}
    document = {name: [one.as_json() for one in some] for name, some in rows.items()}
    to_stdout = str(json_file) == "-"
    kept = not json_file or to_stdout or runner.try_write(json_file, documents.write, document)
    if to_stdout:
        print(json.dumps(document))
    else:
        for name, some in rows.items():
            print(name)
            summary.show_comparison(some)
        for note in _differences(pairs):
            print(f"note: {note}")
    if not kept:
        raise typer.Exit(runner.NOT_WRITTEN)
    sound = [name for name, a, b in pairs if a["valid"] and b["valid"]]
    if any(comparison.regressions(rows[name]) for name in sound):
        raise typer.Exit(runner.WORSE)
    raise typer.Exit(0 if all(runner.is_valid(one) for one in made) else runner.INVALID)


def show_report(
    file: Annotated[Path, typer.Argument(metavar="FILE.json", help="What --json wrote.")],
    html: options.Html = None,
) -> None:
    """Show a report again, or make its HTML page."""
    with runner.report_errors():
        made = documents.read(file)
    if html:
        if not runner.try_write(html, report.write, made):
            raise typer.Exit(runner.NOT_WRITTEN)
        print(f"written: {html}")
    else:
        runner.show(made)


def _pairs(
    first: documents.Document, second: documents.Document
) -> list[tuple[str, documents.Document, documents.Document]]:
    """Runs of the same name; two single runs are a pair whatever they are called."""
    if first["kind"] == second["kind"] == "run":
        return [(f"{_run_name(first)} → {_run_name(second)}", first, second)]
    named = {one["name"]: one for one in runner.iter_runs(second)}
    pairs = [
        (one["name"], one, named[one["name"]]) for one in runner.iter_runs(first) if one["name"] in named
    ]
    if not pairs:
        raise ValueError("the two have no run of the same name")
    return pairs


def _run_name(run: documents.Document) -> str:
    return f"{run['target']['model']} {run['started_at']}"


def _differences(pairs: list[tuple[str, documents.Document, documents.Document]]) -> Iterator[str]:
    """What was not the same for both: then the ratio is of more than the servers."""
    for name, a, b in pairs:
        for key in a["load"]:
            if a["load"][key] != b["load"].get(key) and key != "seed":
                yield f"{name}: {key} was {a['load'][key]}, then {b['load'].get(key)}"
        for which, one in (("first", a), ("second", b)):
            if not one["valid"]:
                yield f"{name}: the {which} run is invalid: {one['reasons'][0]}"
