"""`lockstep classify` and `lockstep encode`: one result per text."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from lockstep_client.texts import text_batches
from lockstep_client.verbs.context import Model, Texts, VerbContext, Version

if TYPE_CHECKING:
    from lockstep_client.results import Classification, Encoding

A = TypeVar("A", "Classification", "Encoding")


def classify(
    context: VerbContext,
    model: Model,
    texts: Texts = None,
    top_k: Annotated[int, typer.Option(min=0, help="Number of labels per text; 0 prints all.")] = 1,
    version: Version = "",
) -> None:
    """Classify texts: prints label, probability and text."""
    from lockstep_client import display

    send = partial(context.client.classify, model, top_k=top_k, version=version)
    _answer(context, texts, send, display.classifications)


def encode(
    context: VerbContext,
    model: Model,
    texts: Texts = None,
    attention: Annotated[bool, typer.Option("--attention", help="Also print attention weights.")] = False,
    version: Version = "",
) -> None:
    """Encode texts as vectors."""
    from lockstep_client import display

    send = partial(context.client.encode, model, attention=attention, version=version)
    _answer(context, texts, send, display.encodings)


def _answer(
    context: VerbContext,
    texts: list[str] | None,
    send: Callable[[list[str]], list[A]],
    show: Callable[[Sequence[str], Sequence[A]], None],
) -> None:
    from lockstep_client import display

    for some in text_batches(texts or []):
        answers = send(some)
        if context.as_json:
            for text, answer in zip(some, answers, strict=True):
                display.json_line({"text": text} | vars(answer))
        else:
            show(some, answers)
            display.notices(answers)
