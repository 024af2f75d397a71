"""States of sequences as protobuf messages: written from the engine's, and checked when they are read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from lockstep_proto.v1 import sequences_pb2 as pb

from .. import messages
from ..errors import ErrorCode, ServingError, bad_input
from ..model import datatypes
from . import generate, tensors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..frontend.registry import ModelRegistry
    from ..frontend.served_model import ServedModel
    from ..model.datatypes import Arrays
    from ..model.spec import ModelSpec, StateTensor
    from .status import Context


def written(spec: ModelSpec, state: messages.SequenceState, id_: pb.SequenceId | None) -> pb.SequenceState:
    """The message of a state of this model. `id_` is the one that its caller gave the sequence, if any."""
    message = pb.SequenceState(
        model=spec.name,
        version=spec.version,
        files=bytes.fromhex(spec.files),
        caller=state.caller,
        id=id_,
        made=time.time(),
        states=[
            pb.NamedTensor(
                name=one.spec.name,
                datatype=one.datatype,
                shape=state.states[one.spec.name].shape,
                contents=state.states[one.spec.name].tobytes(),
            )
            for one in spec.states
        ],
        steps=state.steps,
        tokens=state.tokens,
        next=state.next,
        rest=state.rest,
    )
    if state.generation is not None:
        request = generate.written(spec, state.generation)
        kind = message.translate if isinstance(request, pb.TranslateRequest) else message.generate
        kind.CopyFrom(request)  # type: ignore[arg-type]
    return message


def served_by(registry: ModelRegistry, state: pb.SequenceState) -> ServedModel:
    """The mode that a state is of.

    Raises:
        ServingError: as the registry's; REFUSED_STATE, this server has another version or other files.
    """
    try:
        served = registry.resolve(state.model, str(state.version))
    except ServingError as error:
        if error.code is not ErrorCode.NOT_FOUND or state.model not in registry.versions:
            raise
        raise ServingError(ErrorCode.REFUSED_STATE, f"the state is of another version: {error}") from None
    if not served.spec.is_stepwise or state.files != bytes.fromhex(served.spec.files):
        why = f"the files of model {state.model!r} differ from those that the state is of"
        raise ServingError(ErrorCode.REFUSED_STATE, f"{why}; start the sequence again")
    return served


def read(served: ServedModel, state: pb.SequenceState, context: Context) -> messages.SequenceState:
    """The state in a message. The engine checks the shapes of its tensors.

    Raises:
        ServingError: BAD_INPUT, it is none of this model's.
    """
    return messages.SequenceState(
        generation=_generation(served, state, context),
        states=_arrays(served.spec, state.states),
        caller=state.caller,
        steps=state.steps,
        tokens=tuple(state.tokens),
        next=state.next,
        rest=tuple(state.rest),
    )


def _generation(served: ServedModel, state: pb.SequenceState, context: Context) -> messages.Generate | None:
    """The request of a text, validated as when it was sent. None: the caller drives the sequence."""
    kind = state.WhichOneof("request")
    if kind is None:
        return None
    request = getattr(state, kind)
    make = generate.translate_request if kind == "translate" else generate.generate_request
    if request.HasField("resume") or getattr(request, "samples", 0) > 1 or request.text:
        raise bad_input(f"state.{kind}", "not the request of one text of ids")
    request.model, request.priority = state.model, 0
    message = make(served, request, context).message
    assert isinstance(message, messages.Generate)
    generate.check_tokens(served.spec, (state.next,), "state.next")
    generate.check_tokens(served.spec, state.tokens, "state.tokens")
    generate.check_tokens(served.spec, state.rest, "state.rest")
    return message


def _arrays(spec: ModelSpec, sent: Iterable[pb.NamedTensor]) -> Arrays:
    """The tensors of a state, of which the engine checks the shapes.

    Raises:
        ServingError: BAD_INPUT, a tensor is not one of the model's states.
    """
    known = {state.spec.name: state for state in spec.states}
    arrays: Arrays = {}
    for tensor in sent:
        if tensor.name not in known or tensor.name in arrays:
            why = f"{tensors.quoted(tensor.name)} is no state of the model, or there twice"
            raise bad_input("state.states", why)
        arrays[tensor.name] = _array(known[tensor.name], tensor)
    return arrays


def _array(state: StateTensor, tensor: pb.NamedTensor) -> np.ndarray[Any, Any]:
    field, dtype = f"state.states.{state.spec.name}", datatypes.NUMPY[state.datatype]
    if tensor.datatype != state.datatype or state.datatype == "BYTES":
        raise bad_input(field, f"the datatype is {tensors.quoted(tensor.datatype)}, not {state.datatype}")
    shape = list(tensor.shape)
    if len(shape) != len(state.shape) or (shape and min(shape) < 0):
        raise bad_input(field, f"shape {shape[:8]} is not one of this state")
    count = 1
    for size in shape:
        count *= size
    if count * dtype.itemsize != len(tensor.contents):
        raise bad_input(field, f"{len(tensor.contents)} bytes; the shape needs {count * dtype.itemsize}")
    return np.frombuffer(bytearray(tensor.contents), dtype).reshape(shape)
