"""Definitions of the calls that copy live sequences between servers, and their results.

arguments → `Call` → client.py → reply message → result. Counterpart of calls.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lockstep_client import arguments, protocol
from lockstep_client.protocol import Call, SequenceUse
from lockstep_proto.v1 import sequences_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Hashable


@dataclass(frozen=True)
class SequenceState:
    """The state of a sequence between two of its steps."""

    state: bytes = field(repr=False)
    """For `put_sequence`, on this or another server with the same files of the model."""
    model: str
    version: str
    position: int
    """Number of elements read, and generated."""
    tokens: tuple[int, ...]
    """What a text has generated so far."""


@dataclass(frozen=True)
class LiveSequence:
    """A sequence that was put on a server."""

    sequence_id: int | str
    """For `infer`, `follow`, `follow_frames`, `generate` or `translate`."""
    model: str
    version: str
    position: int


def get_sequence(
    model: str,
    sequence_id: int | str = 0,
    *,
    stream_id: str = "",
    owner: str = "",
    version: str = "",
    timeout_s: float | None = None,
) -> Call[SequenceState]:
    """Copy the state of a live sequence, which goes on: one with a `sequence_id`, or an open stream.

        state = client.get_sequence("shakespeare-char-lstm", stream_id=part.stream_id)
        for seed in (1, 2):  # two other continuations
            put = client.put_sequence(state, f"fork {seed}", seed=seed)
            print(client.generate(state.model, sequence_id=put.sequence_id).result().text)

    The first part of a Generate, Translate or Follow stream has its `stream_id`. Admins name the sequence of
    another caller by its `owner`. Raises SequenceLost if there is no such sequence, or if it has no state to
    give, as texts with beams; Denied if it is another caller's, or if the server has no key to sign states
    and the caller is no admin.
    """
    request = pb.GetSequenceRequest(
        model=arguments.model(model), version=version, owner=owner, **_named(sequence_id, stream_id)
    )
    use = SequenceUse("", stream_id) if stream_id else SequenceUse.of(model, sequence_id)
    return Call(protocol.GET_SEQUENCE, request, _state, timeout_s, sequence=use)


def put_sequence(
    state: SequenceState | bytes,
    sequence_id: int | str = 0,
    *,
    seed: int | None = None,
    timeout_s: float | None = None,
) -> Call[LiveSequence]:
    """Make a live sequence of a state. It goes on exactly as the one that the state was copied from.

    A step by `infer`, or a stream by `generate`, `translate` or `follow`, goes on with its `sequence_id`. 0
    keeps the id, or lets the server make one for a stream's. With a `seed`, a text goes on by other random
    numbers. A sequence that nobody goes on with is evicted, as one without steps.

    Raises InvalidRequest for damaged bytes; Denied for a state of another caller, or signed by another key;
    SequenceLost if the server has other files of the model, or if the id is in use; Overloaded if no slot is
    free.
    """
    request = pb.PutSequenceRequest(
        state=state.state if isinstance(state, SequenceState) else state,
        id=message_of("sequence_id", sequence_id) if sequence_id else None,
        seed=None if seed is None else arguments.count("seed", seed),
    )
    use = SequenceUse(SequenceUse.key_of(sequence_id) if sequence_id else "", None, starts=True)
    return Call(
        protocol.PUT_SEQUENCE, request, _live, timeout_s, repeatable=False, sequence=use, placed=_placed
    )


def message_of(name: str, sequence_id: int | str) -> pb.SequenceId:
    """The id as a message. Raises InvalidRequest for a number that is none."""
    if isinstance(sequence_id, str):
        return pb.SequenceId(text=arguments.text(name, sequence_id))
    return pb.SequenceId(number=arguments.count(name, sequence_id, below=1 << 63))


def _named(sequence_id: int | str, stream_id: str) -> dict[str, Any]:
    if bool(sequence_id) == bool(stream_id):
        raise arguments.invalid("sequence_id", "expected either a sequence_id or a stream_id")
    if stream_id:
        return {"stream_id": arguments.text("stream_id", stream_id)}
    return {"id": message_of("sequence_id", sequence_id)}


def _state(reply: pb.GetSequenceReply) -> SequenceState:
    return SequenceState(reply.state, reply.model, reply.version, reply.position, tuple(reply.tokens))


def _live(reply: pb.PutSequenceReply) -> LiveSequence:
    id_ = reply.id
    sequence_id = id_.text if id_.WhichOneof("id") == "text" else id_.number
    return LiveSequence(sequence_id, reply.model, reply.version, reply.position)


def _placed(reply: pb.PutSequenceReply) -> Hashable:
    live = _live(reply)
    return SequenceUse.of(live.model, live.sequence_id).place
