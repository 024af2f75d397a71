"""Requests on their way in: a `Submit` becomes a decoding, or an element of a fed sequence. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import bad_input
from .prefill import measure_prompt
from .sequence import ClientSequence, GenerationSequence, StepRequest
from .slots import growing

if TYPE_CHECKING:
    from ... import messages
    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec


def decoding_of(
    spec: ModelSpec, submit: messages.Submit, how: messages.Decode, inputs: Arrays, tokens: tuple[str, ...]
) -> GenerationSequence:
    """
    Args:
        inputs: the prompt's ids, [1, n], under any name; n may be 0.
        tokens: the prompt's tokens, for who asked for attention.

    Raises:
        ServingError: BAD_INPUT, a prompt that is empty or too long.
    """
    stepwise = spec.manifest.stepwise
    assert stepwise is not None
    return GenerationSequence(
        submit.key,
        submit.accepted,
        submit.deadline,
        submit.priority,
        submit.caller,
        prompt=_prompt(spec, submit.field, inputs),
        how=how,
        source=tokens,
        limit=stepwise.max_tokens if how.max_tokens is None else how.max_tokens,
    )


def _prompt(spec: ModelSpec, field: str, inputs: Arrays) -> tuple[int, ...]:
    ids = next(iter(inputs.values())).ravel().tolist() if inputs else []
    text = spec.manifest.text
    if not ids and spec.manifest.task == "generate" and text and text.begin is not None:
        ids = [text.begin]
    if not ids:
        raise bad_input(field, "it is empty, and the model has no begin id; send at least one word")
    if spec.prefill is not None:
        measure_prompt(spec.prefill, ids)
    for name in growing(spec):
        longest = spec.manifest.lengths[name].max
        if len(ids) > longest:
            why = f"it has {len(ids)} elements, the model takes {longest} at most; shorten it"
            raise bad_input(field, why)
    return tuple(ids)


def element_of(submit: messages.Submit, how: messages.Feed, inputs: Arrays) -> StepRequest:
    """One step, in a conversation of its own: the scheduler puts it into the live one, or begins this."""
    client_sequence = ClientSequence(
        submit.key, submit.accepted, None, submit.priority, submit.caller, id=how.sequence
    )
    return StepRequest(submit.key, inputs, submit.outputs, submit.accepted, submit.deadline, client_sequence)
