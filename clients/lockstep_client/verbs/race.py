"""`lockstep race`: times step-wise, fused, one-shot and re-encoding on one text, and writers after it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lockstep_client.texts import InputError
from lockstep_client.verbs.context import VerbContext

if TYPE_CHECKING:
    from lockstep_client.client import AsyncClient
    from lockstep_client.race import RaceResult
    from lockstep_client.reading import Contender
    from lockstep_client.writing import WritingResult


def _lengths(value: str) -> str:
    parts = value.split(",")
    if not all(part.strip().isdecimal() and 0 < int(part) <= 100_000 for part in parts):
        raise typer.BadParameter(f"{value!r} is not a list of lengths such as 10,100,1000")
    return value


def race(
    context: VerbContext,
    text: Annotated[
        str | None,
        typer.Argument(
            metavar="TEXT", help="Text to read, truncated or repeated to each length (default: built in)."
        ),
    ] = None,
    stepwise: Annotated[
        str, typer.Option(metavar="NAME", help="Recurrent model to run step by step.")
    ] = "sentiment-lstm",
    fused: Annotated[
        str, typer.Option(metavar="NAME", help="Recurrent model to run on the whole text at once.")
    ] = "sentiment-lstm",
    oneshot: Annotated[
        str, typer.Option(metavar="NAME", help="Transformer, to run once and to re-encode after each word.")
    ] = "sentiment-transformer",
    writers: Annotated[
        str,
        typer.Option(
            metavar="NAME,NAME",
            help="Generative models that write after a context: with a state of constant size, with caches.",
        ),
    ] = "shakespeare-char-lstm,shakespeare-gpt",
    lengths: Annotated[
        str,
        typer.Option(
            metavar="N,N,...",
            callback=_lengths,
            help="Text lengths in words, and contexts of the writers in characters.",
        ),
    ] = "10,100,1000",
    repeat: Annotated[
        int, typer.Option(min=1, metavar="N", help="Number of timed runs; the median is reported.")
    ] = 5,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Plot the results to a file.")] = None,
) -> None:
    """Compare four ways to read a text: step-wise, fused, one-shot, re-encoding; and two to write one.

    Reports the times to the first and last prediction, and the compute time; of writers, the time of one more
    token. Exits with code 1 if nothing could be timed.
    """
    from lockstep_client import display, plots, race_report, writing
    from lockstep_client.race import TEXT
    from lockstep_client.reading import contenders

    plot = plots.checked_path(plot)
    if text is not None and not text.strip():
        raise InputError("the text is empty: expected at least one word")
    sorted_lengths = sorted({int(part) for part in lengths.split(",")})
    lineup = contenders(stepwise, fused, oneshot)
    names = [name.strip() for name in writers.split(",") if name.strip()]
    results, written = context.run(
        lambda client: _run(client, lineup, names, text or TEXT, sorted_lengths, repeat, context.as_json)
    )
    if context.as_json:
        display.json_line({"shows": [*race_report.sentences(results), *writing.sentences(written)]})
    else:
        race_report.show(results, written)
    if not (any(one.time for one in results) or any(each.time for each in written)):
        raise typer.Exit(1)
    if plot:
        plots.race(plot, results, written)


async def _run(
    client: "AsyncClient",
    lineup: "tuple[Contender, ...]",
    writers: list[str],
    text: str,
    lengths: list[int],
    repeat: int,
    as_json: bool,
) -> "tuple[list[RaceResult], list[WritingResult]]":
    from lockstep_client import display, writing
    from lockstep_client.race import Race
    from lockstep_client.race_screen import RaceScreen

    results, written = [], []
    with RaceScreen(lineup, shown=sys.stdout.isatty() and not as_json) as screen:
        race = Race(client, lineup, text, repeat, screen.on_progress)
        for words in lengths:
            screen.start(words)
            found = await race.results(words)
            results += found
            for one in found if as_json else ():
                display.json_line(one.as_json())
    for characters in lengths if writers else ():
        wrote = await writing.results(client, writers, text, characters, repeat)
        written += wrote
        for each in wrote if as_json else ():
            display.json_line(each.as_json())
    return results, written
