"""What servers of a fleet send one another: signed, so that nobody else can speak for a peer.

content → `PeerMessage` with a signature → content, or an error. A reply is signed together with the signature
of its request, so an old reply answers nothing.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.message import DecodeError, Message

from lockstep_proto.v1 import peers_pb2 as pb
from lockstep_proto.v1 import sequences_pb2

from ..errors import ErrorCode, ServingError
from ..frontend.moves import HoldState
from ..frontend.peers import PullResult

if TYPE_CHECKING:
    from .. import messages
    from .sequence_states import SequenceKeys

Content = TypeVar("Content", bound=Message)

HOLD_STATES: dict[HoldState, Any] = {
    HoldState.ACTIVATING: pb.HOLD_STATE_ACTIVATING,
    HoldState.LIVE: pb.HOLD_STATE_LIVE,
    HoldState.GONE: pb.HOLD_STATE_GONE,
    HoldState.UNKNOWN: pb.HOLD_STATE_UNKNOWN,
}
PULL_RESULTS: dict[PullResult, Any] = {
    PullResult.ABSENT: pb.PULL_RESULT_ABSENT,
    PullResult.MOVED: pb.PULL_RESULT_MOVED,
    PullResult.BUSY: pb.PULL_RESULT_BUSY,
    PullResult.STAYS: pb.PULL_RESULT_STAYS,
    PullResult.LEFT: pb.PULL_RESULT_LEFT,
}
HOLD_STATE_OF = {number: state for state, number in HOLD_STATES.items()}
PULL_RESULT_OF = {number: result for result, number in PULL_RESULTS.items()}


class PeerKeys:
    """Signs and checks messages with keys made of those that the servers share."""

    def __init__(self, keys: SequenceKeys) -> None:
        # Of their own, so that a signed state is never a message of a peer.
        self._keys = [hmac.digest(key, b"lockstep peers", "sha256") for key in keys.keys]

    def sign(self, content: Message, to: bytes) -> pb.PeerMessage:
        """Sign a request to a method, or the reply to a signature."""
        data = content.SerializeToString()
        return pb.PeerMessage(content=data, signature=_signature(self._keys[0], to, data))

    def read(self, kind: type[Content], signed: pb.PeerMessage, to: bytes) -> Content:
        """
        Raises:
            ServingError: UNAUTHENTICATED, no peer has signed this; BAD_INPUT, damaged.
        """
        found = (_signature(key, to, signed.content) for key in self._keys)
        if not any(hmac.compare_digest(one, signed.signature) for one in found):
            raise ServingError(ErrorCode.UNAUTHENTICATED, "not signed with the key of this server's peers")
        try:
            return kind.FromString(signed.content)
        except DecodeError:
            raise ServingError(ErrorCode.BAD_INPUT, "content: damaged") from None


def _signature(key: bytes, to: bytes, content: bytes) -> bytes:
    return hmac.digest(key, to + b"\0" + content, "sha256")


def sequence_message(sequence: messages.SequenceId) -> pb.OwnedSequence:
    owner, id_ = sequence if isinstance(sequence, tuple) else (None, sequence)
    given = (
        sequences_pb2.SequenceId(number=id_) if isinstance(id_, int) else sequences_pb2.SequenceId(text=id_)
    )
    return pb.OwnedSequence(id=given, owner=owner)


def sequence_of(message: pb.OwnedSequence) -> messages.SequenceId:
    id_ = message.id.text if message.id.WhichOneof("id") == "text" else message.id.number
    return (message.owner, id_) if message.HasField("owner") else id_
