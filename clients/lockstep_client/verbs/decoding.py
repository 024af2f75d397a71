"""The options of `lockstep generate` and `lockstep translate` that choose tokens."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lockstep_client.texts import InputError

if TYPE_CHECKING:
    from lockstep_client.decoding import Decoding

MaxTokens = Annotated[
    int | None,
    typer.Option(min=0, metavar="N", help="Maximum number of tokens (default: the model's limit)."),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        min=0, metavar="T", help="Sampling temperature; 0 always takes the most probable token. Default: 1."
    ),
]
TopK = Annotated[
    int,
    typer.Option(min=0, metavar="K", help="Sample from the K most probable tokens only; 0 turns it off."),
]
TopP = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        metavar="P",
        help="Nucleus sampling: the smallest set of tokens whose probabilities sum to P; 0 turns it off.",
    ),
]
Sequence = Annotated[
    str,
    typer.Option(
        metavar="ID",
        help="Go on with a text that `lockstep sequence put` or `fork` made, from its first token.",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        min=0, metavar="S", help="Random seed; the same seed gives the same text (default: a random one)."
    ),
]
RepetitionPenalty = Annotated[
    float | None,
    typer.Option(metavar="R", help="Divide the scores of tokens that the text has; 1 turns it off."),
]
PresencePenalty = Annotated[
    float | None, typer.Option(metavar="P", help="Subtract this from the scores of generated tokens.")
]
NoRepeat = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="No sequence of N tokens occurs twice; 0 turns it off.")
]
MinTokens = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="The text does not end before N tokens.")
]
LogitBias = Annotated[
    list[str] | None, typer.Option(metavar="ID=B", help="Add B to the score of a token; may be repeated.")
]
Forbid = Annotated[
    list[int] | None, typer.Option(metavar="ID", help="Do not generate this token; may be repeated.")
]
Beams = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Beam search with N beams; 1 turns it off.")
]
LengthPenalty = Annotated[
    float | None,
    typer.Option(metavar="L", help="Of a beam search: above 0 favours longer texts. Default: 1."),
]
EarlyStopping = Annotated[
    bool | None,
    typer.Option(
        "--early-stopping/--no-early-stopping",
        help="End a beam search once N texts have ended.",
        show_default=False,
    ),
]


def decoding_of(
    repetition_penalty: float | None = None,
    presence_penalty: float | None = None,
    no_repeat: int | None = None,
    min_tokens: int | None = None,
    logit_bias: list[str] | None = None,
    forbidden: list[int] | None = None,
    beams: int | None = None,
    length_penalty: float | None = None,
    early_stopping: bool | None = None,
) -> "Decoding":
    """The options that were given.

    Raises:
        InputError: a bias is not ID=B.
    """
    given: dict[str, Any] = {
        "repetition_penalty": repetition_penalty,
        "presence_penalty": presence_penalty,
        "no_repeat": no_repeat,
        "min_tokens": min_tokens,
        "logit_bias": dict(map(_bias, logit_bias)) if logit_bias else None,
        "forbidden": forbidden or None,
        "beams": beams,
        "length_penalty": length_penalty,
        "early_stopping": early_stopping,
    }
    options: Any = {name: value for name, value in given.items() if value is not None}
    return options  # type: ignore[no-any-return]


def _bias(value: str) -> tuple[int, float]:
    try:
        token, bias = value.split("=")
        return int(token), float(bias)
    except ValueError:
        raise InputError(f"--logit-bias {value}: expected ID=B, such as 13=-2.5") from None
