"""`lockstep follow`: a prediction after each element of a text, as a person types it or a pipe brings it."""

import math
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lockstep_client.texts import arriving, given
from lockstep_client.verbs.common import Model, VerbContext, Version

if TYPE_CHECKING:
    from collections.abc import Iterable


def follow(
    asking: VerbContext,
    model: Model,
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="What to follow; - or a pipe: stdin. Else type it.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=0, help="Labels in each JSON line; 0: all.")] = 0,
    version: Version = "",
) -> None:
    """Predict after each element of a text.

    A line holds position, element, label, probability, elements computed and milliseconds.
    """
    if text is None and sys.stdin.isatty() and sys.stdout.isatty() and not asking.as_json:
        from lockstep_client import follow_terminal

        with follow_terminal.keys_at_once(sys.stdin.fileno()):
            asking.run(partial(follow_terminal.converse, model=model, version=version, top_k=top_k))
        return
    if text in (None, "-"):  # as long as it comes, unless told otherwise
        pieces, timeout_s = arriving(), asking.timeout_s or math.inf
        _follow(asking, model, pieces, top_k=top_k, version=version, timeout_s=timeout_s)
    else:
        [[one]] = given([text])
        _follow(asking, model, one, top_k=top_k, version=version)


def _follow(asking: VerbContext, model: str, pieces: "str | Iterable[str]", **options: Any) -> None:
    from lockstep_client import display

    with asking.client.follow(model, pieces, **options) as stream:
        for prediction in stream:
            if asking.as_json:
                display.json_line(prediction)
            else:
                display.prediction(prediction)
        if not asking.as_json:
            display.notices(stream.result())
