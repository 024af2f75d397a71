"""The ids by which callers name their sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import bad_input
from ..frontend.callers import current

if TYPE_CHECKING:
    from lockstep_proto.v1 import sequences_pb2 as pb

    from .. import messages

MAX_CHARACTERS = 256


def owned(sequence: int | str) -> messages.SequenceId:
    """The id with its owner: callers with a name of their own cannot step or end each other's sequences."""
    caller = current.get()
    return (caller.name, sequence) if caller.authenticated else sequence


def owned_by(owner: str, sequence: int | str) -> messages.SequenceId:
    """The id of a sequence of some caller, as this server has it."""
    is_named = current.get().authenticated and bool(owner) and not owner.startswith("@")
    return (owner, sequence) if is_named else sequence


def value(id_: pb.SequenceId, field: str) -> int | str:
    """
    Raises:
        ServingError: BAD_INPUT, it is no id: 0, "", or too long.
    """
    found: int | str = id_.text if id_.WhichOneof("id") == "text" else id_.number
    if not found:
        raise bad_input(field, "missing; send a number, not 0, or a text")
    if isinstance(found, str) and len(found) > MAX_CHARACTERS:
        raise bad_input(field, f"the id has {len(found)} characters; send at most {MAX_CHARACTERS}")
    return found
