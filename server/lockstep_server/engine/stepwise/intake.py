"""Intake: turns a `Generate` message into a generation sequence, and a `Step` into a step request. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import bad_input
from .prefill import measure_prompt
from .sequence import ClientSequence, GenerationSequence, StepRequest
from .slots import growing_lengths

if TYPE_CHECKING:
    from ... import messages
    from ...model.spec import ModelSpec


def make_generation_sequence(spec: ModelSpec, request: messages.Generate) -> GenerationSequence:
    """
    Raises:
        ServingError: BAD_INPUT, the prompt is empty or too long.
    """
    stepwise = spec.manifest.stepwise
    assert stepwise is not None
    return GenerationSequence(
        request.key,
        request.accepted,
        request.deadline,
        request.priority,
        request.caller,
        params=request,
        prompt=_prompt(spec, request.field, request.prompt),
        limit=stepwise.max_tokens if request.max_tokens is None else request.max_tokens,
    )


def _prompt(spec: ModelSpec, field: str, ids: tuple[int, ...]) -> tuple[int, ...]:
    text = spec.manifest.text
    if not ids and spec.manifest.task == "generate" and text and text.begin is not None:
        ids = (text.begin,)
    if not ids:
        raise bad_input(field, "the text is empty and the model has no begin token; send at least one word")
    if spec.prefill is not None:
        measure_prompt(spec.prefill, ids)
    for name in growing_lengths(spec):
        longest = spec.manifest.lengths[name].max
        if len(ids) > longest:
            why = f"the input has {len(ids)} elements, more than the model's limit of {longest}; shorten it"
            raise bad_input(field, why)
    return ids


def make_step_request(request: messages.Step) -> StepRequest:
    """Make a step request with a new client sequence. The scheduler replaces the new sequence by the
    live one with this id, unless the request starts a sequence."""
    sequence = ClientSequence(
        request.key, request.accepted, None, request.priority, request.caller, id=request.sequence
    )
    return StepRequest(
        request.key, request.inputs, request.outputs, request.accepted, request.deadline, sequence
    )
