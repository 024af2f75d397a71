"""Requests on their way in: a `Submit` becomes a decoding, or an element of a fed sequence. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import bad_input
from .prefill import measure_prompt
from .sequence import Conversation, Decoding, Element
from .slots import growing

if TYPE_CHECKING:
    from .. import port
    from ..models.card import Card
    from ..models.datatypes import Arrays


def decoding_of(
    card: Card, submit: port.Submit, how: port.Decode, inputs: Arrays, tokens: tuple[str, ...]
) -> Decoding:
    """
    Args:
        inputs: the prompt's ids, [1, n], under any name; n may be 0.
        tokens: the prompt's tokens, for who asked for attention.

    Raises:
        ServingError: BAD_INPUT, a prompt that is empty or too long.
    """
    stepwise = card.manifest.stepwise
    assert stepwise is not None
    return Decoding(
        submit.key,
        submit.accepted,
        submit.deadline,
        submit.priority,
        submit.caller,
        prompt=_prompt(card, submit.field, inputs),
        how=how,
        source=tokens,
        limit=stepwise.max_tokens if how.max_tokens is None else how.max_tokens,
    )


def _prompt(card: Card, field: str, inputs: Arrays) -> tuple[int, ...]:
    ids = next(iter(inputs.values())).ravel().tolist() if inputs else []
    text = card.manifest.text
    if not ids and card.manifest.task == "generate" and text and text.begin is not None:
        ids = [text.begin]
    if not ids:
        raise bad_input(field, "it is empty, and the model has no begin id; send at least one word")
    if card.prefill is not None:
        measure_prompt(card.prefill, ids)
    for name in growing(card):
        longest = card.manifest.lengths[name].max
        if len(ids) > longest:
            why = f"it has {len(ids)} elements, the model takes {longest} at most; shorten it"
            raise bad_input(field, why)
    return tuple(ids)


def element_of(submit: port.Submit, how: port.Feed, inputs: Arrays) -> Element:
    """One step, in a conversation of its own: the scheduler puts it into the live one, or begins this."""
    conversation = Conversation(
        submit.key, submit.accepted, None, submit.priority, submit.caller, id=how.sequence
    )
    return Element(submit.key, inputs, submit.outputs, submit.accepted, submit.deadline, conversation)
