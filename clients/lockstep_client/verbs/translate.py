"""`lockstep translate`: streams the translation of each text, and shows its attention."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lockstep_client.texts import InputError
from lockstep_client.verbs.context import Model, Texts, VerbContext, Version
from lockstep_client.verbs.decoding import (
    Beams,
    EarlyStopping,
    LengthPenalty,
    MaxTokens,
    NoRepeat,
    RepetitionPenalty,
    decoding_of,
)

if TYPE_CHECKING:
    from lockstep_client.decoding import Decoding
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
    max_tokens: MaxTokens = None,
    repetition_penalty: RepetitionPenalty = None,
    no_repeat: NoRepeat = None,
    beams: Beams = None,
    length_penalty: LengthPenalty = None,
    early_stopping: EarlyStopping = None,
    version: Version = "",
) -> None:
    """Translate texts, and stream the translations."""
    from lockstep_client import plots

    plot = plots.checked_path(plot)
    options = decoding_of(
        repetition_penalty=repetition_penalty, no_repeat=no_repeat, beams=beams,
        length_penalty=length_penalty, early_stopping=early_stopping,
    )  # fmt: skip
    if plot and len(texts or []) != 1:
        raise InputError("--plot needs exactly one text as an argument")
    for some in context.text_batches(texts):
        for text in some:
            whole = _one(context, model, text, attention or plot is not None, max_tokens, version, options)
            if attention and not context.as_json:
                _heat_map(whole)
            if plot:
                plots.attention(plot, text, whole)


def _one(
    context: VerbContext,
    model: str,
    text: str,
    attention: bool,
    max_tokens: int | None,
    version: str,
    options: "Decoding",
) -> "Translation":
    from lockstep_client import display

    with context.client.translate(
        model, text, attention=attention, max_tokens=max_tokens, version=version, **options
    ) as stream:
        translation = display.StreamedText(context.as_json)
        for part in stream:
            translation.part(part)
        whole = stream.result()
    if context.as_json:
        display.json_line(vars(whole) | {"model": whole.model or model, "source": text})
    else:
        translation.end()
        if options.get("beams"):
            display.alternatives(whole.alternatives)
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
