"""`lockstep classify` and `lockstep encode`: the whole text in, one answer out."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from lockstep_client.texts import given
from lockstep_client.verbs.common import Model, Texts, VerbContext, Version

if TYPE_CHECKING:
    from lockstep_client.results import Classification, Encoding

A = TypeVar("A", "Classification", "Encoding")


def classify(
    asking: VerbContext,
    model: Model,
    texts: Texts = None,
    top_k: Annotated[int, typer.Option(min=0, help="Labels for each text; 0: all.")] = 1,
    version: Version = "",
) -> None:
    """Label each text: label, probability, text."""
    from lockstep_client import display

    ask = partial(asking.client.classify, model, top_k=top_k, version=version)
    _answer(asking, texts, ask, display.classifications)


def encode(
    asking: VerbContext,
    model: Model,
    texts: Texts = None,
    attention: Annotated[bool, typer.Option("--attention", help="Attention weights too.")] = False,
    version: Version = "",
) -> None:
    """Turn each text into a vector."""
    from lockstep_client import display

    ask = partial(asking.client.encode, model, attention=attention, version=version)
    _answer(asking, texts, ask, display.encodings)


def _answer(
    asking: VerbContext,
    texts: list[str] | None,
    ask: Callable[[list[str]], list[A]],
    tell: Callable[[Sequence[str], Sequence[A]], None],
) -> None:
    from lockstep_client import display

    for some in given(texts or []):
        answers = ask(some)
        if asking.as_json:
            for text, answer in zip(some, answers, strict=True):
                display.json_line({"text": text} | vars(answer))
        else:
            tell(some, answers)
            display.notices(answers)
