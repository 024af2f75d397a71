"""`lockstep load`: the commands.

Exit codes: 0 measured; 1 nothing could be measured (no server, no such model, no answer); 2 wrong usage;
3 measured, but invalid: the generator was the limit; 4 `compare` found the second run worse; 130 interrupted,
with a partial report.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from lockstep_client import address as addresses
from lockstep_client.errors import LockstepError
from lockstep_client.load import document, options, preflight, summary
from lockstep_client.load.arrivals import Process
from lockstep_client.load.document import Document
from lockstep_client.load.plan import Closed, Load, Open, Pace, Target, Workload
from lockstep_client.load.screen import Screen
from lockstep_client.load.session import Session
from lockstep_client.load.verdict import MAX_LAG_MS

NOT_MEASURED, INVALID, WORSE, INTERRUPTED = 1, 3, 4, 130

app = typer.Typer(
    name="load",
    help="Measure a server under load, and say honestly what it did.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def _load() -> None:
    """Measure a server under load, and say honestly what it did.

    Exit codes: 0 measured, 1 nothing could be measured, 2 wrong usage, 3 invalid (the generator was the
    limit), 4 compare found the second one worse, 130 interrupted.
    """


@app.command()
def run(
    model: options.Model,
    seconds: options.Seconds,
    address: options.Address = addresses.DEFAULT,
    rate: options.Rate = None,
    concurrency: options.Concurrency = None,
    call: options.Call = None,
    version: options.Version = "",
    arrivals: options.Arrivals = "poisson",
    lengths: options.LengthsGiven = "sst2",
    ids: options.Ids = "",
    rows: options.Rows = 1,
    tokens: options.Tokens = "",
    shape: options.Shapes = None,
    fill: options.Fills = None,
    warmup: options.Warmup = 1.0,
    timeout: options.Timeout = 10.0,
    processes: options.Processes = None,
    seed: options.Seed = 0,
    max_lag_ms: options.MaxLag = MAX_LAG_MS,
    max_in_flight: options.MaxInFlight = 10_000,
    wait: options.Wait = 0.0,
    json_file: options.Json = None,
    html: options.Html = None,
    quiet: options.Quiet = False,
) -> None:
    """One load, open loop (--rate) or closed loop (--concurrency), and what came of it."""
    pace = _pace(rate, concurrency, arrivals)
    target = Target(address, model, version, timeout)
    asked = Workload(
        "infer",
        options.lengths("--lengths", lengths),
        options.ids(ids),
        rows,
        options.lengths("--tokens", tokens) if tokens else None,
    )
    load = Load(
        pace,
        seconds,
        warmup,
        seed,
        options.processes(processes, rate=rate, concurrency=concurrency),
        max_in_flight,
    )
    wanted = options.wanted(shape, fill)
    with _told():
        workload = preflight.prepared(target, asked, call, wanted, wait)
        with Session(load.processes, Screen(quiet=quiet), max_lag_ms) as session:
            made = session.run(target, workload, load)
    made["target"]["server"] = preflight.server(target)
    _report(made, json_file, html)


def _pace(rate: float | None, concurrency: int | None, arrivals: Process) -> Pace:
    if (rate is None) == (concurrency is None):
        raise typer.BadParameter("give one of the two: --rate R (open loop) or --concurrency N (closed loop)")
    if rate is not None:
        return Open(rate, arrivals)
    assert concurrency is not None
    return Closed(concurrency)


def _report(made: Document, json_file: Path | None, html: Path | None) -> None:
    """Files first: a terminal may be slow, or gone."""
    _write(made, json_file)
    if str(json_file) != "-":
        summary.show(made)
    for path in (json_file, html):
        if path and str(path) != "-":
            print(f"written: {path}")
    _exit(made)


def _write(made: Document, json_file: Path | None) -> None:
    if str(json_file) == "-":
        print(json.dumps(made))
    elif json_file:
        document.write(json_file, made)


def _exit(made: Document) -> None:
    if made["partial"]:
        raise typer.Exit(INTERRUPTED)
    if not made["outcomes"].get("ok"):
        raise typer.Exit(NOT_MEASURED)
    if not made["valid"]:
        raise typer.Exit(INVALID)


@contextmanager
def _told() -> Iterator[None]:
    """Errors that end a command, in a line."""
    try:
        yield
    except LockstepError as error:
        print(f"lockstep: {' '.join(error.message.split())}", file=sys.stderr)
        raise typer.Exit(NOT_MEASURED) from None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
