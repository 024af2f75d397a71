"""Calls of the other servers of a fleet: the gRPC client behind `frontend.peers.PeerLink`."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any

import grpc

from lockstep_proto.v1 import peers_pb2 as pb
from lockstep_proto.v1 import peers_pb2_grpc

from ..errors import LoadError, ServingError
from ..frontend.peers import ConfirmAnswer, HelloAnswer, OfferAnswer, PeerError, PullAnswer
from . import state_messages
from .peer_messages import HOLD_STATE_OF, PULL_RESULT_OF, sequence_message

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from .. import messages
    from ..certificates import CertificateFiles
    from ..frontend.moves import Hold
    from ..model.spec import ModelSpec
    from ..settings import Settings
    from .peer_messages import Content, PeerKeys

_HELLO_S, _CONFIRM_S = 1.0, 2.0
_OFFER_S = 10.0  # of a state of max_sequence_mb
_PULL_S = 5.0

_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class PeerClient:
    """Implements `PeerLink`."""

    def __init__(self, address: str, channel: Any, keys: PeerKeys) -> None:
        self.address, self._channel, self._keys = address, channel, keys
        self._stub: Any = peers_pb2_grpc.PeersStub(channel)  # type: ignore[no-untyped-call]

    async def hello(self) -> HelloAnswer:
        request = pb.HelloRequest(nonce=secrets.token_bytes(16))
        reply = await self._call("Hello", request, pb.HelloReply, _HELLO_S)
        return HelloAnswer(reply.incarnation, reply.server)

    async def offer(
        self,
        incarnation: str,
        spec: ModelSpec,
        sequence: messages.SequenceId,
        state: messages.SequenceState,
    ) -> OfferAnswer:
        owned = sequence_message(sequence)
        written = state_messages.written(spec, state, owned.id)
        request = pb.OfferRequest(incarnation=incarnation, sequence=owned, state=written)
        reply = await self._call("Offer", request, pb.OfferReply, _OFFER_S)
        return OfferAnswer(reply.incarnation, reply.number, reply.refusal)

    async def confirm(self, hold: Hold) -> ConfirmAnswer:
        request = pb.ConfirmRequest(incarnation=hold.incarnation, number=hold.number)
        reply = await self._call("Confirm", request, pb.ConfirmReply, _CONFIRM_S)
        if reply.state not in HOLD_STATE_OF:
            raise PeerError("it answers with an unknown state")
        return ConfirmAnswer(reply.incarnation, HOLD_STATE_OF[reply.state], reply.refusal)

    async def pull(self, incarnation: str, to: str, model: str, sequence: messages.SequenceId) -> PullAnswer:
        owned = sequence_message(sequence)
        request = pb.PullRequest(incarnation=incarnation, to=to, model=model, sequence=owned)
        reply = await self._call("Pull", request, pb.PullReply, _PULL_S)
        if reply.result not in PULL_RESULT_OF:
            raise PeerError("it answers with an unknown result")
        return PullAnswer(reply.incarnation, PULL_RESULT_OF[reply.result], reply.why)

    async def _call(self, method: str, request: Message, kind: type[Content], timeout_s: float) -> Content:
        signed = self._keys.sign(request, method.encode())
        try:
            reply = await getattr(self._stub, method)(signed, timeout=timeout_s)
            return self._keys.read(kind, reply, signed.signature)
        except grpc.aio.AioRpcError as error:
            details = error.details() or ""
            nobody = error.code() is grpc.StatusCode.UNAVAILABLE and "Connection refused" in details
            raise PeerError(f"{error.code().name}: {details[:200]}", absent=nobody) from None
        except ServingError as error:
            raise PeerError(f"its reply is {error.message}") from None
        except (grpc.aio.UsageError, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise PeerError("the connection was closed") from None

    async def close(self) -> None:
        await self._channel.close()


class PeerConnector:
    """Makes links. With TLS, a peer must have a certificate for the host that `--peers` names, of the
    authorities in `--peer-ca`, or in `--tls-client-ca`; and it gets this server's own certificate.

    Raises:
        LoadError: TLS is on, and no file has the authorities.
    """

    def __init__(self, settings: Settings, certificates: CertificateFiles | None, keys: PeerKeys) -> None:
        self._keys, self._certificates, self._ca = keys, certificates, b""
        if certificates is None:
            if settings.peer_ca:
                raise LoadError("--peer-ca needs --tls-cert and --tls-key; set them too")
            return
        path = settings.peer_ca or settings.tls_client_ca
        if not path:
            raise LoadError("--peers needs --peer-ca with TLS: the authorities of the peers' certificates")
        try:
            with open(path, "rb") as file:
                self._ca = file.read()
        except OSError as error:
            raise LoadError(f"--peer-ca {path}: cannot be read: {error.strerror}") from None

    def __call__(self, address: str, host: str) -> PeerClient:
        if self._certificates is None:
            channel = grpc.aio.insecure_channel(address, _OPTIONS)
        else:
            own = self._certificates.current()
            credentials = grpc.ssl_channel_credentials(self._ca, own.key, own.chain)
            options = [*_OPTIONS, ("grpc.ssl_target_name_override", host)]
            channel = grpc.aio.secure_channel(address, credentials, options)
        return PeerClient(address, channel, self._keys)
