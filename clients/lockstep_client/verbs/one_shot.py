"""`lockstep classify`, `classify-tokens`, `encode` and `transcribe`: one result per text or file."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from lockstep_client.verbs.context import Model, Texts, VerbContext, Version

if TYPE_CHECKING:
    from lockstep_client.results import Classification, Encoding, TokenClassification

A = TypeVar("A", "Classification", "Encoding", "TokenClassification")


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


def classify_tokens(
    context: VerbContext,
    model: Model,
    texts: Texts = None,
    aggregation: Annotated[
        str, typer.Option(help="Spans: words by their first, average or max token, or none: tokens.")
    ] = "first",
    entities: Annotated[
        bool, typer.Option("--entities", help="Join the words of an entity, and leave out label O.")
    ] = False,
    top_k: Annotated[int, typer.Option(min=0, help="Number of labels per span; 0 prints all.")] = 1,
    version: Version = "",
) -> None:
    """Label the words of texts: prints place (start:end), label, probability and word."""
    from lockstep_client import display

    send = partial(
        context.client.classify_tokens,
        model,
        aggregation=aggregation,
        entities=entities,
        top_k=top_k,
        version=version,
    )
    _answer(context, texts, send, display.token_classifications)


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


def transcribe(
    context: VerbContext,
    model: Model,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Frames: .npy or .wav files.")],
    version: Version = "",
) -> None:
    """Read the text in files of frames: prints text and file."""
    from lockstep_client import display, frames_file

    for file in files:
        [answer] = context.client.transcribe(model, frames_file.read(file), version=version)
        if context.as_json:
            display.json_line({"file": str(file)} | vars(answer))
        else:
            display.transcript(answer, str(file))


def _answer(
    context: VerbContext,
    texts: list[str] | None,
    send: Callable[[list[str]], list[A]],
    show: Callable[[Sequence[str], Sequence[A]], None],
) -> None:
    from lockstep_client import display

    for some in context.text_batches(texts):
        answers = send(some)
        if context.as_json:
            for text, answer in zip(some, answers, strict=True):
                display.json_line({"text": text} | vars(answer))
        else:
            show(some, answers)
            display.notices(answers)
