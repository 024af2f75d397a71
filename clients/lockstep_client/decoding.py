"""How tokens are chosen: the options that `generate` and `translate` share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from lockstep_client import arguments
from lockstep_proto.v1 import sequences_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Decoding(TypedDict, total=False):
    """What is left out is as the model's manifest says."""

    repetition_penalty: float
    """Divides the positive scores of ids that the text or its prompt has, multiplies the negative ones."""
    presence_penalty: float
    """Subtracted from the scores of ids that the text has."""
    no_repeat: int
    """No sequence of so many ids occurs twice; 0 turns it off."""
    min_tokens: int
    """The text does not end before so many tokens."""
    logit_bias: Mapping[int, float]
    """Added to the scores of ids."""
    forbidden: Sequence[int]
    """Ids that are not generated."""
    beams: int
    """Beam search with so many beams: `alternatives` of the result has their texts; 1 turns it off."""
    length_penalty: float
    """Of a beam search: above 0 favours longer texts; the default is 1."""
    early_stopping: bool
    """End a beam search once as many texts have ended as there are beams."""


def message(options: Decoding) -> pb.Decoding | None:
    """The options as a message; None without options.

    Raises:
        TypeError: an option is unknown.
        InvalidRequest: a value does not fit its field.
    """
    for name in options:
        if name not in Decoding.__annotations__:
            raise TypeError(
                f"unexpected keyword argument {name!r}; known: {', '.join(Decoding.__annotations__)}"
            )
    if not options:
        return None
    sent: Mapping[str, Any] = options
    for name in ("no_repeat", "min_tokens", "beams"):
        arguments.count_32(name, sent.get(name, 0))
    try:
        return pb.Decoding(**sent)
    except (TypeError, ValueError, OverflowError) as error:
        raise arguments.invalid("decoding", str(error)) from error
