"""`lockstep capacity`: how many servers a load needs."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from lockstep_client.texts import InputError
from lockstep_client.verbs.context import Model, VerbContext, Version

if TYPE_CHECKING:
    from lockstep_client.capacity import Capacity

_CORES = 2


def capacity(
    context: VerbContext,
    model: Model,
    rate: Annotated[
        float, typer.Option(min=0.0, metavar="R", help="One-shot requests per second.", show_default=False)
    ] = 0.0,
    p99: Annotated[
        float,
        typer.Option(
            "--p99", min=0.1, metavar="MS", help="The 99th percentile of the answer; of streams, of a token."
        ),
    ] = 50.0,
    length: Annotated[int, typer.Option(min=1, metavar="N", help="Elements (tokens) of a request.")] = 32,
    streams: Annotated[
        int, typer.Option(min=0, metavar="N", help="Streams of tokens at a time.", show_default=False)
    ] = 0,
    frontends: Annotated[int, typer.Option(min=1, help="--frontends of the servers.")] = 1,
    spare: Annotated[int, typer.Option(min=0, help="Servers that may fail or restart.")] = 1,
    version: Version = "",
) -> None:
    """Plan servers for a load, from what the runs of a running server cost."""
    from lockstep_client import capacity as plans
    from lockstep_client import display

    if not (rate or streams):
        raise InputError("give --rate R, --streams N or both")
    forms = context.client.describe(model, version=version)
    found: dict[str, tuple[float, Capacity]] = {}
    try:
        if rate:
            form = next((one for one in forms if not one.step_wise), None)
            if form is None:
                raise InputError(f"{model} answers no one-shot requests; give --streams N")
            found["requests/s"] = rate, plans.one_shot(form, length, p99 / 1e3, frontends)
        if streams:
            form = next((one for one in forms if one.step_wise), None)
            if form is None:
                raise InputError(f"{model} has no streams; give --rate R")
            found["streams"] = streams, plans.streaming(form, p99 / 1e3)
    except ValueError as error:
        raise InputError(str(error)) from None
    servers = sum(one.servers(wanted, spare=0) for wanted, one in found.values()) + spare
    cores = _CORES - 1 + frontends
    if context.as_json:
        display.json_line(
            {
                "model": model, "servers": servers, "spare": spare, "cores": servers * cores,
                "one_server": {unit: asdict(one) for unit, (_, one) in found.items()},
            }
        )  # fmt: skip
        return
    for unit, (wanted, one) in found.items():
        typer.echo(
            f"{wanted:g} {unit}: a server carries {one.amount:.0f}, limited by {one.limit},"
            f" with {one.rows:.1f} rows per run and a p99 of {one.latency_s * 1e3:.3g} ms"
        )
    typer.echo(f"{servers} servers ({spare} spare) with {cores} cores each: {servers * cores} cores")
    typer.echo("A plan from measured runs: `lockstep load search` measures what a server really carries.")
