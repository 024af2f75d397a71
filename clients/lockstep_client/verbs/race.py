"""`lockstep race`: the same text step by step, fused, one-shot and encoded again after each word."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lockstep_client.texts import InputError
from lockstep_client.verbs.common import VerbContext

if TYPE_CHECKING:
    from lockstep_client.client import AsyncClient
    from lockstep_client.race import Contender, RaceResult


def _lengths(value: str) -> str:
    parts = value.split(",")
    if not all(part.strip().isdecimal() and 0 < int(part) <= 100_000 for part in parts):
        raise typer.BadParameter(f"{value!r} is not a list of lengths: give 10,100,1000")
    return value


def race(
    asking: VerbContext,
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="What all read, cut or repeated; one is at hand.")
    ] = None,
    stepwise: Annotated[
        str, typer.Option(metavar="NAME", help="The recurrent model, one step for each element.")
    ] = "sentiment-lstm",
    fused: Annotated[
        str, typer.Option(metavar="NAME", help="The recurrent model, the whole text in one run.")
    ] = "sentiment-lstm",
    oneshot: Annotated[
        str, typer.Option(metavar="NAME", help="The Transformer: in one run, and encoded again.")
    ] = "sentiment-transformer",
    lengths: Annotated[
        str, typer.Option(metavar="N,N,...", callback=_lengths, help="Lengths of the text, in words.")
    ] = "10,100,1000",
    repeat: Annotated[int, typer.Option(min=1, metavar="N", help="Timed laps; the median counts.")] = 5,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw it to a file.")] = None,
) -> None:
    """Race four ways to read a text.

    Time to the first and the last prediction, and compute: step-wise, fused, one-shot, encoded again.
    Exit code 1 where nobody could be timed.
    """
    from lockstep_client import display, plots, race_report
    from lockstep_client.race import TEXT, contenders

    plot = plots.checked_path(plot)
    if text is not None and not text.strip():
        raise InputError("the text is empty: give at least one word")
    whole = sorted({int(part) for part in lengths.split(",")})
    who = contenders(stepwise, fused, oneshot)
    results = asking.run(lambda client: _run(client, who, text or TEXT, whole, repeat, asking.as_json))
    if asking.as_json:
        display.json_line({"shows": race_report.sentences(results)})
    else:
        race_report.show(results)
    if not any(one.lap for one in results):
        raise typer.Exit(1)
    if plot:
        plots.race(plot, results)


async def _run(
    client: "AsyncClient",
    who: "tuple[Contender, ...]",
    text: str,
    lengths: list[int],
    repeat: int,
    as_json: bool,
) -> "list[RaceResult]":
    from lockstep_client import display
    from lockstep_client.race import Race
    from lockstep_client.race_screen import RaceScreen

    results = []
    with RaceScreen(who, shown=sys.stdout.isatty() and not as_json) as screen:
        race = Race(client, who, text, repeat, screen.watch)
        for words in lengths:
            screen.start(words)
            some = await race.results(words)
            results += some
            for one in some if as_json else ():
                display.json_line(one.as_json())
    return results
