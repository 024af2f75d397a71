"""Live sequences as `messages.SequenceState`, and sequences that go on from one.

sequence between two steps → `of_client`, `of_generation` → another server → `client_sequence`,
`generation_sequence` → steps as if nothing had happened
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from ... import messages
from ...errors import ErrorCode, ServingError, bad_input, unavailable
from ...model import datatypes
from .host_states import shape_of
from .sequence import ClientSequence, make_generation_sequence
from .slots import PoolRow, initial_states, is_full, lengths_of

if TYPE_CHECKING:
    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec
    from .sequence import GenerationSequence

NO_SEARCH = ServingError(
    ErrorCode.REFUSED_STATE, "a beam search has no state that another server takes; send its request again"
)


def of_client(spec: ModelSpec, sequence: ClientSequence) -> messages.SequenceState:
    """The state after the last step that has run."""
    states = sequence.states
    if states is None:
        states = initial_states(spec)
    elif isinstance(states, PoolRow):
        states = states.pool.take(states)
    return messages.SequenceState(states=states, caller=sequence.caller, steps=sequence.steps)


def of_generation(sequence: GenerationSequence) -> messages.SequenceState:
    """The state of a sequence that is in no batch.

    Raises:
        ServingError: REFUSED_STATE, it is a beam search. UNAVAILABLE, its prompt has not been read yet.
    """
    if sequence.search is not None:
        raise NO_SEARCH
    if sequence.states is None:
        raise unavailable("the prompt of the stream has not been read yet; retry", 0.1)
    return messages.SequenceState(
        states=sequence.states,
        caller=sequence.caller,
        generation=replace(sequence.params, received=(), resumes=None),
        tokens=sequence.tokens,
        next=sequence.token,
        rest=sequence.prompt,
    )


def client_sequence(spec: ModelSpec, put: messages.PutSequence) -> ClientSequence:
    """A client sequence that goes on from a state.

    Raises:
        ServingError: BAD_INPUT, a state has another type or shape than the model's.
    """
    _check(spec, put.state.states)
    return ClientSequence(
        put.key,
        0.0,
        caller=put.state.caller,
        max_slots=put.max_slots,
        id=put.sequence,
        states=put.state.states,
        steps=put.state.steps,
    )


def generation_sequence(spec: ModelSpec, put: messages.PutSequence) -> GenerationSequence:
    """A text that goes on from a state once a stream asks for it.

    Raises:
        ServingError: BAD_INPUT, a state has another type or shape than the model's, or its text has ended.
    """
    state, request = put.state, put.state.generation
    assert request is not None
    _check(spec, state.states)
    request = replace(request, key=put.key, caller=state.caller, max_slots=put.max_slots)
    sequence = make_generation_sequence(spec, replace(request, received=state.tokens))
    if sequence.search is not None:
        raise NO_SEARCH
    if len(state.tokens) >= sequence.limit:
        raise bad_input("state.tokens", f"the text has its {sequence.limit} tokens: it has ended")
    if is_full(spec, lengths_of(spec, state.states)):
        raise bad_input("state.states", "a cache is full: the text has ended")
    sequence.states, sequence.token, sequence.prompt = state.states, state.next, state.rest
    return sequence


def _check(spec: ModelSpec, states: Arrays) -> None:
    """
    Raises:
        ServingError: BAD_INPUT, as above.
    """
    names = {state.spec.name for state in spec.states}
    if names != states.keys():
        wrong = ", ".join(sorted(names ^ states.keys()))
        raise bad_input("state.states", f"the model's states are others: {wrong}")
    lengths: dict[str, int] = {}
    for state in spec.states:
        array, field = states[state.spec.name], f"state.states.{state.spec.name}"
        if array.dtype != datatypes.NUMPY[state.datatype]:
            raise bad_input(field, f"the datatype is {array.dtype}, not {state.datatype}")
        if array.ndim != len(state.shape):
            raise bad_input(field, f"{array.ndim} axes; the model's state has {len(state.shape)}")
        if state.dynamic_axis:
            axis, name = state.dynamic_axis
            found, most = array.shape[axis], spec.manifest.lengths[name].max
            if lengths.setdefault(name, found) != found:
                raise bad_input(field, f"{found} elements of {name!r}, and {lengths[name]} in another state")
            if found > most:
                raise bad_input(field, f"{found} elements of {name!r}, of at most {most}")
        if list(array.shape) != shape_of(state, 1, lengths):
            raise bad_input(field, f"shape {list(array.shape)}; expected {shape_of(state, 1, lengths)}")
