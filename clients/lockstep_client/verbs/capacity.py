"""`lockstep capacity`: how many servers a load needs."""

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lockstep_client.texts import InputError
from lockstep_client.verbs.context import Model, VerbContext, Version

if TYPE_CHECKING:
    from lockstep_client.capacity import Capacity, Memory

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
    metrics: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            help="Metrics address of the running server: adds memory, as it has measured.",
            show_default=False,
        ),
    ] = "",
    price: Annotated[
        float,
        typer.Option(
            min=0.0, metavar="P", help="Price of a server for an hour: adds costs.", show_default=False
        ),
    ] = 0.0,
    version: Version = "",
) -> None:
    """Plan servers for a load, from what the runs of a running server cost."""
    from lockstep_client import capacity as plans
    from lockstep_client import display, tables

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
        memory = _memory(metrics, model, context) if metrics else None
    except ValueError as error:
        raise InputError(str(error)) from None
    servers = sum(one.servers(wanted, spare=0) for wanted, one in found.values()) + spare
    cores = _CORES - 1 + frontends
    each = found["streams"][1].amount if streams else 0
    plan: dict[str, Any] = {
        "model": model, "servers": servers, "spare": spare, "cores": servers * cores,
        "one_server": {unit: asdict(one) for unit, (_, one) in found.items()},
    }  # fmt: skip
    if memory:
        plan["memory_bytes"] = memory.with_streams(each)
        plan["state_bytes"] = memory.state
    if price:
        plan["cost_per_hour"] = servers * price
    if context.as_json:
        display.json_line(plan)
        return
    for unit, (wanted, one) in found.items():
        typer.echo(
            f"{wanted:g} {unit}: a server carries {one.amount:.0f}, limited by {one.limit},"
            f" with {one.rows:.1f} rows per run and a p99 of {one.latency_s * 1e3:.3g} ms"
        )
    fleet, all_cores = tables.counted(servers, "server"), tables.counted(servers * cores, "core")
    typer.echo(f"{fleet} ({spare} spare) with {tables.counted(cores, 'core')} each: {all_cores}")
    if memory:
        typer.echo(_memory_line(memory, each))
    if price:
        typer.echo(_price_line(servers * price, rate))
    typer.echo("A plan from measured runs: `lockstep load search` measures what a server really carries.")


def _memory(address: str, model: str, context: VerbContext) -> "Memory":
    """
    Raises:
        InputError: the metrics cannot be read.
        ValueError: they are not those of a server.
    """
    from http.client import HTTPException

    from lockstep_client import capacity as plans
    from lockstep_client.metrics_text import scrape

    token = os.environ.get("LOCKSTEP_METRICS_TOKEN") or context.connection["token"]
    try:
        return plans.memory(scrape(address, tls=context.connection["tls"], token=token), model)
    except (OSError, HTTPException) as error:
        raise InputError(f"--metrics {address}: {error}") from None


def _memory_line(memory: "Memory", streams: float) -> str:
    each = f"{memory.with_streams(streams) / 1e9:.2f} GB of memory each"
    if not streams:
        return each
    if not memory.state:
        return f"{each}, without the states of streams: run this while some are live"
    return f"{each}, of which {memory.state / 1e3:.1f} kB for the states of each of {streams:.0f} streams"


def _price_line(per_hour: float, rate: float) -> str:
    from lockstep_client.capacity import HOURS_OF_MONTH

    line = f"{per_hour:,.2f} an hour, {per_hour * HOURS_OF_MONTH:,.0f} a month"
    return f"{line}, {per_hour / rate / 3600 * 1e6:.3g} for a million requests" if rate else line
