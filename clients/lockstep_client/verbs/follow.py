"""`lockstep follow`: a prediction after each element of a text, typed interactively or read from a pipe."""

import math
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lockstep_client.texts import stdin_pieces, text_batches
from lockstep_client.verbs.context import Model, VerbContext, Version

if TYPE_CHECKING:
    from collections.abc import Iterable


def follow(
    context: VerbContext,
    model: Model,
    text: Annotated[
        str | None,
        typer.Argument(metavar="TEXT", help="The text. With - or in a pipe: stdin. Default: type it."),
    ] = None,
    top_k: Annotated[int, typer.Option(min=0, help="Number of labels per JSON line; 0 prints all.")] = 0,
    version: Version = "",
) -> None:
    """Predict after each element of a text.

    Each line has position, element, label, probability, elements computed and compute time in ms.
    """
    if text is None and sys.stdin.isatty() and sys.stdout.isatty() and not context.as_json:
        from lockstep_client import follow_terminal

        with follow_terminal.unbuffered_keys(sys.stdin.fileno()):
            context.run(partial(follow_terminal.follow_typed_text, model=model, version=version, top_k=top_k))
        return
    if text in (None, "-"):  # no deadline by default: stdin may stay open
        pieces, timeout_s = stdin_pieces(), context.timeout_s or math.inf
        _follow(context, model, pieces, top_k=top_k, version=version, timeout_s=timeout_s)
    else:
        [[one]] = text_batches([text])
        _follow(context, model, one, top_k=top_k, version=version)


def _follow(context: VerbContext, model: str, pieces: "str | Iterable[str]", **options: Any) -> None:
    from lockstep_client import display

    with context.client.follow(model, pieces, **options) as stream:
        for prediction in stream:
            if context.as_json:
                display.json_line(prediction)
            else:
                display.prediction(prediction)
        if not context.as_json:
            display.notices(stream.result())
