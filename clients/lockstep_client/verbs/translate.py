"""`lockstep translate`: streams the translation of each text, and shows its attention."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lockstep_client.texts import InputError, text_batches
from lockstep_client.verbs.context import Model, Texts, VerbContext, Version

if TYPE_CHECKING:
    from lockstep_client.stream_results import Translation


def translate(
    context: VerbContext,
    model: Model,
    texts: Texts = None,
    attention: Annotated[
        bool, typer.Option("--attention", help="Show the attention over the source as a heat map.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Plot the attention of one text to a file.")
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Maximum number of tokens (default: the model's limit)."),
    ] = None,
    version: Version = "",
) -> None:
    """Translate texts, and stream the translations."""
    from lockstep_client import plots

    plot = plots.checked_path(plot)
    if plot and len(texts or []) != 1:
        raise InputError("--plot needs exactly one text as an argument")
    for some in text_batches(texts or []):
        for text in some:
            whole = _one(context, model, text, attention or plot is not None, max_tokens, version)
            if attention and not context.as_json:
                _heat_map(whole)
            if plot:
                plots.attention(plot, text, whole)


def _one(
    context: VerbContext, model: str, text: str, attention: bool, max_tokens: int | None, version: str
) -> "Translation":
    from lockstep_client import display

    with context.client.translate(
        model, text, attention=attention, max_tokens=max_tokens, version=version
    ) as stream:
        translation = display.StreamedText(context.as_json)
        for part in stream:
            translation.part(part)
        whole = stream.result()
    if context.as_json:
        display.json_line(vars(whole) | {"model": whole.model or model, "source": text})
    else:
        translation.end()
        display.notices([whole])
    return whole


def _heat_map(whole: "Translation") -> None:
    from rich.console import Console

    from lockstep_client.heatmap import heat_map

    if whole.attention is None:
        return
    console = Console()
    for line in heat_map(whole.attention, whole.source_tokens, whole.pieces, console):
        console.print(line, no_wrap=True, overflow="crop", crop=False)
