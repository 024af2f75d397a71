"""`lockstep translate`: each text's translation as it comes, and what its tokens looked at."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lockstep_client.texts import InputError, given
from lockstep_client.verbs.common import Model, Texts, VerbContext, Version

if TYPE_CHECKING:
    from lockstep_client.stream_results import Translation


def translate(
    asking: VerbContext,
    model: Model,
    texts: Texts = None,
    attention: Annotated[
        bool, typer.Option("--attention", help="What each token looked at, as a heat map.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw that to a file; for one text.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Tokens at most; the model's limit if not given.")
    ] = None,
    version: Version = "",
) -> None:
    """Translate each text; the translation comes as it is made."""
    from lockstep_client import plots

    plot = plots.checked_path(plot)
    if plot and len(texts or []) != 1:
        raise InputError("--plot draws one text: give one as an argument")
    for some in given(texts or []):
        for text in some:
            whole = _one(asking, model, text, attention or plot is not None, max_tokens, version)
            if attention and not asking.as_json:
                _heat_map(whole)
            if plot:
                plots.attention(plot, text, whole)


def _one(
    asking: VerbContext, model: str, text: str, attention: bool, max_tokens: int | None, version: str
) -> "Translation":
    from lockstep_client import display

    with asking.client.translate(
        model, text, attention=attention, max_tokens=max_tokens, version=version
    ) as stream:
        translation = display.StreamedText(asking.as_json)
        for part in stream:
            translation.part(part)
        whole = stream.result()
    if asking.as_json:
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
