"""Intake: turns a `Submit` into a generation sequence or a step request. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import bad_input
from .prefill import measure_prompt
from .sequence import ClientSequence, GenerationSequence, StepRequest
from .slots import growing_lengths

if TYPE_CHECKING:
    from ... import messages
    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec


def make_generation_sequence(
    spec: ModelSpec, submit: messages.Submit, params: messages.Decode, inputs: Arrays, tokens: tuple[str, ...]
) -> GenerationSequence:
    """
    Args:
        inputs: the prompt's ids, [1, n], under any name; n may be 0.
        tokens: the prompt's tokens, if attention was requested.

    Raises:
        ServingError: BAD_INPUT, the prompt is empty or too long.
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
        params=params,
        source_tokens=tokens,
        limit=stepwise.max_tokens if params.max_tokens is None else params.max_tokens,
    )


def _prompt(spec: ModelSpec, field: str, inputs: Arrays) -> tuple[int, ...]:
    ids = next(iter(inputs.values())).ravel().tolist() if inputs else []
    text = spec.manifest.text
    if not ids and spec.manifest.task == "generate" and text and text.begin is not None:
        ids = [text.begin]
    if not ids:
        raise bad_input(field, "the text is empty and the model has no begin token; send at least one word")
    if spec.prefill is not None:
        measure_prompt(spec.prefill, ids)
    for name in growing_lengths(spec):
        longest = spec.manifest.lengths[name].max
        if len(ids) > longest:
            why = f"the input has {len(ids)} elements, more than the model's limit of {longest}; shorten it"
            raise bad_input(field, why)
    return tuple(ids)


def make_step_request(submit: messages.Submit, options: messages.Feed, inputs: Arrays) -> StepRequest:
    """Make a step request with a new client sequence. The scheduler replaces the new sequence by the
    live one with this id, unless the request starts a sequence."""
    sequence = ClientSequence(
        submit.key, submit.accepted, None, submit.priority, submit.caller, id=options.sequence
    )
    return StepRequest(submit.key, inputs, submit.outputs, submit.accepted, submit.deadline, sequence)
