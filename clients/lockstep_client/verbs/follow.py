"""`lockstep follow`: a prediction after each element of a text or of the frames of a file."""

import math
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lockstep_client.texts import InputError, stdin_pieces
from lockstep_client.verbs.context import Model, VerbContext, Version

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lockstep_client.stream_results import Prediction
    from lockstep_client.streams import Stream


def follow(
    context: VerbContext,
    model: Model,
    text: Annotated[
        str | None,
        typer.Argument(metavar="TEXT", help="The text. With - or in a pipe: stdin. Default: type it."),
    ] = None,
    top_k: Annotated[int, typer.Option(min=0, help="Number of labels per JSON line; 0 prints all.")] = 0,
    frames: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Frames instead of a text: a .npy or .wav file.")
    ] = None,
    chunk: Annotated[int, typer.Option(min=0, help="Frames per message, with --frames; 0: all in one.")] = 0,
    output: Annotated[
        list[str] | None, typer.Option(help="Output to print, with --frames. Can be repeated.")
    ] = None,
    version: Version = "",
) -> None:
    """Predict after each element of a text, or of frames of numbers.

    Each line has position, element, label, probability, elements computed and compute time in ms; for frames
    without labels, the text or the outputs instead of element, label and probability.
    """
    if frames is not None:
        if text is not None:
            raise InputError("both TEXT and --frames: pass one of them")
        from lockstep_client import frames_file

        options: dict[str, Any] = {"top_k": top_k, "outputs": output or (), "version": version}
        _show(context, context.client.follow_frames(model, frames_file.chunks(frames, chunk), **options))
        return
    if text is None and sys.stdin.isatty() and sys.stdout.isatty() and not context.as_json:
        from lockstep_client import follow_terminal

        with follow_terminal.unbuffered_keys(sys.stdin.fileno()):
            context.run(partial(follow_terminal.follow_typed_text, model=model, version=version, top_k=top_k))
        return
    if text in (None, "-"):  # no deadline by default: stdin may stay open
        pieces, timeout_s = stdin_pieces(), context.timeout_s or math.inf
        _follow(context, model, pieces, top_k=top_k, version=version, timeout_s=timeout_s)
    else:
        [[one]] = context.text_batches([text])
        _follow(context, model, one, top_k=top_k, version=version)


def _follow(context: VerbContext, model: str, pieces: "str | Iterable[str]", **options: Any) -> None:
    _show(context, context.client.follow(model, pieces, **options))


def _show(context: VerbContext, predictions: "Stream[Prediction, list[Prediction]]") -> None:
    from lockstep_client import display

    with predictions as stream:
        for prediction in stream:
            if context.as_json:
                display.json_line(prediction)
            else:
                display.prediction(prediction)
        if not context.as_json:
            display.notices(stream.result())
