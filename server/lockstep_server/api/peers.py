"""`Peers`: what other servers of the fleet ask of this one. Translates and delegates to `frontend.moving`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lockstep_proto.v1 import peers_pb2 as pb

from .. import messages
from ..errors import LoadError, ServingError
from ..frontend.loop_watch import off_loop
from ..frontend.moving import Mover
from ..frontend.peers import OfferAnswer, Peers
from . import state_messages
from .peer_client import PeerConnector
from .peer_messages import HOLD_STATES, PULL_RESULTS, PeerKeys, sequence_of
from .sequence_states import SequenceKeys

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

    from ..certificates import CertificateFiles
    from ..frontend.registry import ModelRegistry
    from ..frontend.requests import InFlightRequests
    from ..frontend.sequence_states import SequenceStates
    from ..metrics.families import Metrics
    from ..settings import Settings
    from .peer_messages import Content
    from .status import Context

_BYTES_PER_STEP = 4096
"""Bytes that are checked or copied in about a microsecond."""


def mover(
    settings: Settings,
    states: SequenceStates,
    registry: ModelRegistry,
    metrics: Metrics,
    requests: InFlightRequests,
    certificates: CertificateFiles | None,
    server: str,
    report: Callable[[messages.SequenceMoved], None] | None,
) -> Mover | None:
    """What moves sequences between this server and its peers; None: it has none. `server` and `report` as in
    `Mover`.

    Raises:
        LoadError: settings of peers are missing, or do not go together.
    """
    if not settings.peers:
        if settings.peer_ca:
            raise LoadError("--peer-ca needs --peers; set it too")
        return None
    if not settings.sequence_key_file:
        raise LoadError("--peers needs --sequence-key-file: peers sign what they send with its key; set it")
    keys = PeerKeys(SequenceKeys.read(settings.sequence_key_file))
    streams = requests.sequence_streams
    connect = PeerConnector(settings, certificates, keys)
    peers = Peers(settings.peers, server, connect)
    names = bool(settings.auth_file)
    return Mover(peers, states, registry, metrics, streams, names=names, report=report)


class PeerCalls:
    """The servicer."""

    def __init__(self, mover: Mover, registry: ModelRegistry, keys: SequenceKeys) -> None:
        self._mover, self._registry, self._keys = mover, registry, PeerKeys(keys)

    async def Hello(self, signed: pb.PeerMessage, context: Context) -> pb.PeerMessage:
        self._read(pb.HelloRequest, signed, "Hello")
        incarnation, server = self._mover.incarnation, self._mover.peers.own
        return self._reply(signed, pb.HelloReply(incarnation=incarnation, server=server))

    async def Offer(self, signed: pb.PeerMessage, context: Context) -> pb.PeerMessage:
        steps = len(signed.content) // _BYTES_PER_STEP
        request = await off_loop(steps, self._read, pb.OfferRequest, signed, "Offer")
        answer = OfferAnswer(self._mover.incarnation)
        if request.incarnation == answer.incarnation:
            answer = self._offered(request, context)
        reply = pb.OfferReply(incarnation=answer.incarnation)
        if answer.number:
            reply.number = answer.number
        else:
            reply.refusal = answer.refusal
        return self._reply(signed, reply)

    def _offered(self, request: pb.OfferRequest, context: Context) -> OfferAnswer:
        try:
            served = state_messages.served_by(self._registry, request.state)
            put = messages.PutSequence(
                key=0,
                model=served.spec.name,
                version=served.spec.version,
                sequence=sequence_of(request.sequence),
                state=state_messages.read(served, request.state, context),
            )
        except ServingError as error:
            return OfferAnswer(self._mover.incarnation, refusal=error.message)
        return self._mover.offered(put, served)

    async def Confirm(self, signed: pb.PeerMessage, context: Context) -> pb.PeerMessage:
        request = self._read(pb.ConfirmRequest, signed, "Confirm")
        reply = pb.ConfirmReply(incarnation=self._mover.incarnation)
        if request.incarnation == reply.incarnation:
            answer = await self._mover.confirmed(request.number)
            reply = pb.ConfirmReply(
                incarnation=answer.incarnation, state=HOLD_STATES[answer.state], refusal=answer.refusal
            )
        else:
            reply.state = pb.HOLD_STATE_UNKNOWN
        return self._reply(signed, reply)

    async def Pull(self, signed: pb.PeerMessage, context: Context) -> pb.PeerMessage:
        request = self._read(pb.PullRequest, signed, "Pull")
        reply = pb.PullReply(incarnation=self._mover.incarnation, result=pb.PULL_RESULT_BUSY)
        if request.incarnation == reply.incarnation:
            sequence = sequence_of(request.sequence)
            answer = await self._mover.pulled(request.to, request.model, sequence)
            reply.result, reply.why = PULL_RESULTS[answer.result], answer.why
        return self._reply(signed, reply)

    def _read(self, kind: type[Content], signed: pb.PeerMessage, method: str) -> Content:
        return self._keys.read(kind, signed, method.encode())

    def _reply(self, signed: pb.PeerMessage, reply: Message) -> pb.PeerMessage:
        return self._keys.sign(reply, signed.signature)
