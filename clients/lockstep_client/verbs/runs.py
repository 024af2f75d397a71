"""`lockstep runs` and `lockstep why`: what the server ran lately, and why a request was slow."""

import math
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Annotated

import typer

from lockstep_client.verbs.context import VerbContext

if TYPE_CHECKING:
    from lockstep_client.explanation import Explanation
    from lockstep_client.operations import EndedRequest, Run

Model = Annotated[
    str, typer.Option("--model", "-m", metavar="NAME", help="Only this model (default: all models).")
]

_HEADER = (
    "number", "time", "model", "kind", "rows", "length", "padding", "queue", "device", "compute", "requests",
)  # fmt: skip
_LINE = "{:>9}  {:<12}  {:<28}  {:<11}  {:>7}  {:>6}  {:>7}  {:>8}  {:>8}  {:>8}  {}"
_SINCE_S = 60.0


def runs(
    context: VerbContext,
    model: Model = "",
    last: Annotated[int, typer.Option(min=0, metavar="N", help="Print the last N runs.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new runs until Ctrl-C.")] = False,
) -> None:
    """Print the latest runs of models: rows, padding, waits and compute time in ms."""
    from lockstep_client import display

    if sys.stdout.isatty() and not context.as_json:
        print(_LINE.format(*_HEADER))

    def show(run: "Run") -> None:
        if context.as_json:
            display.json_line(run)
        elif sys.stdout.isatty():
            print(_LINE.format(*_cells(run)), flush=True)
        else:
            print("\t".join(_cells(run)), flush=True)

    latest: deque[Run] = deque(maxlen=last)
    number = 0
    for some in context.client.runs(model):
        latest.extend(some)
        number = some[-1].number
    if model and not number:
        context.client.describe(model)  # a model that does not exist has no runs either, and is an error
    for run in latest:
        show(run)
    if follow:
        timeout_s = context.timeout_s or math.inf
        for some in context.client.runs(model, after=number, follow=True, timeout_s=timeout_s):
            for run in some:
                show(run)


def _cells(run: "Run") -> tuple[str, ...]:
    rows = str(run.rows) if run.rows == run.padded_rows else f"{run.rows}/{run.padded_rows}"
    clock = time.strftime("%H:%M:%S", time.localtime(run.begun)) + f"{run.begun % 1:.3f}"[1:]
    if run.kind == "STEP":
        changes = [f"+{len(run.joined)}"] * bool(run.joined) + [f"-{len(run.left)}"] * bool(run.left)
    else:
        changes = []
    flags = ["cold"] * run.cold + ["failed"] * run.failed
    return (
        str(run.number), clock, run.model, run.kind.lower().replace("_", "-"), rows, str(run.length),
        f"{run.padding:.0%}", *(f"{s * 1e3:.2f}" for s in (run.queue_s, run.device_wait_s, run.compute_s)),
        " ".join((str(len(run.requests)), *changes, *flags)),
    )  # fmt: skip


def why(
    context: VerbContext,
    request_id: Annotated[
        str,
        typer.Argument(
            metavar="REQUEST_ID", help="`request_id` of an answer's timings, a trace id, or an id"
        ),
    ] = "",
    slowest: Annotated[
        bool, typer.Option("--slowest", help="Explain the slowest request of the last --since seconds.")
    ] = False,
    since: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="With --slowest; at most 300 s are remembered.")
    ] = _SINCE_S,
    model: Model = "",
) -> None:
    """Explain the time of a request: what it waited for, what it shared runs with, what they cost."""
    from lockstep_client.explanation import explain

    if bool(request_id) == slowest:
        raise typer.BadParameter("pass a request id, or --slowest")
    client = context.client
    if slowest:
        requests = client.ended_requests(model, since_s=since)
    else:
        requests = client.ended_requests(model, request_id=request_id)
    if not requests:
        _nothing(context, request_id, since, model)
    with client.runs() as stream:
        remembered = stream.result()
    _show(context, explain(requests[0], remembered))


def _nothing(context: VerbContext, request_id: str, since: float, model: str) -> None:
    from lockstep_client.verbs.context import report_error

    of = f" of model {model!r}" if model else ""
    if request_id:
        found = f"no request{of} with id {request_id!r}: it has not ended yet, or it is forgotten"
    else:
        found = f"no request{of} ended in the last {since:g} s"
    report_error(found, context.as_json, code="NOT_FOUND", meaning="not_found")
    raise typer.Exit(1)


def _show(context: VerbContext, found: "Explanation") -> None:
    from lockstep_client import display, tables

    request = found.request
    if context.as_json:
        display.json_line(
            {"request_id": request.request_id} | vars(found) | {"runs": [run.number for run in found.runs]}
        )
        return
    print(_title(request))
    rows = [
        (part.name, f"{part.seconds * 1e3:.2f}", f"{part.seconds / (request.seconds or 1):.0%}")
        for part in found.parts
    ]
    tables.table(("part", "ms", "share"), rows)
    for finding in found.findings:
        print(finding[0].upper() + finding[1:] + ".")


def _title(request: "EndedRequest") -> str:
    clock = time.strftime("%H:%M:%S", time.localtime(request.arrived))
    what = f"{request.method} of {request.model}, version {request.version}"
    return f"{request.request_id}: {what}, at {clock}: {request.outcome} after {request.seconds * 1e3:.2f} ms"
