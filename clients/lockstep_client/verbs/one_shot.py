"""`lockstep classify` and `lockstep encode`: the whole text in, one answer out."""

from typing import TYPE_CHECKING, Annotated

import typer

from lockstep_client.texts import given
from lockstep_client.verbs.asking import Asking, Model, Texts, Version

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lockstep_client.results import Classification, Encoding


def classify(
    asking: Asking,
    model: Model,
    texts: Texts = None,
    top_k: Annotated[int, typer.Option(min=0, help="Labels for each text; 0: all.")] = 1,
    version: Version = "",
) -> None:
    """Label each text: label, probability, text."""
    from lockstep_client import show

    for some in given(texts or []):
        answers = asking.client.classify(model, some, top_k=top_k, version=version)
        if asking.as_json:
            _as_json(some, answers)
        else:
            show.classifications(some, answers)
            show.notices(answers)


def encode(
    asking: Asking,
    model: Model,
    texts: Texts = None,
    attention: Annotated[bool, typer.Option("--attention", help="Attention weights too.")] = False,
    version: Version = "",
) -> None:
    """Turn each text into a vector."""
    from lockstep_client import show

    for some in given(texts or []):
        answers = asking.client.encode(model, some, attention=attention, version=version)
        if asking.as_json:
            _as_json(some, answers)
        else:
            show.encodings(some, answers)
            show.notices(answers)


def _as_json(texts: "Sequence[str]", answers: "Sequence[Classification | Encoding]") -> None:
    from lockstep_client import show

    for text, answer in zip(texts, answers, strict=True):
        show.json_line({"text": text} | vars(answer))
