"""`GetSequence` and `PutSequence`: the states of live sequences as signed bytes.

the engine's state → `SequenceState` → signed → bytes → checked: signature, caller, model, files, tensors,
request → the engine of another server
"""

from __future__ import annotations

import hmac
import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError
from msgspec.structs import replace

from lockstep_proto.v1 import sequences_pb2 as pb

from .. import messages
from ..errors import ErrorCode, LoadError, ServingError, bad_input
from ..frontend.callers import current, readable_mode
from ..frontend.loop_watch import off_loop
from . import sequence_ids, state_messages, tensors

if TYPE_CHECKING:
    from ..frontend.registry import ModelRegistry
    from ..frontend.requests import InFlightRequests
    from ..frontend.sequence_states import SequenceStates
    from ..frontend.served_model import ServedModel
    from ..model.spec import ModelSpec
    from .status import Context

_LEAST_KEY_BYTES = 16
_BYTES_PER_STEP = 4096
"""Bytes that are signed or copied in about a microsecond."""

_FOLLOW = "f"
"""The first character of the stream_id of a Follow; that of others is hexadecimal digits, too."""


@dataclass(frozen=True)
class SequenceKeys:
    """The keys that servers share: the first signs, and each verifies. Without keys, admins only."""

    keys: tuple[bytes, ...] = ()

    @classmethod
    def read(cls, path: str) -> SequenceKeys:
        """The keys of a file, one a line.

        Raises:
            LoadError: it cannot be read, others can read it, or a key is too short.
        """
        if not path:
            return cls()
        try:
            with open(path, "rb") as file:
                status, content = os.fstat(file.fileno()), file.read()
        except OSError as error:
            raise LoadError(f"--sequence-key-file {path}: cannot be read: {error.strerror}") from None
        if (mode := readable_mode(status)) is not None:
            raise LoadError(
                f"--sequence-key-file {path}: others can read it (mode {mode:03o}); run chmod 600 {path}"
            )
        keys = tuple(line.strip() for line in content.splitlines() if line.strip())
        if not keys or min(map(len, keys)) < _LEAST_KEY_BYTES:
            raise LoadError(
                f"--sequence-key-file {path}: expected a key of {_LEAST_KEY_BYTES} characters or more in each"
                f" line; make one with: openssl rand -hex 32 > {path}"
            )
        return cls(keys)

    def sign(self, state: bytes) -> bytes:
        return hmac.digest(self.keys[0], state, "sha256") if self.keys else b""

    def verifies(self, state: bytes, signature: bytes) -> bool:
        return any(hmac.compare_digest(hmac.digest(key, state, "sha256"), signature) for key in self.keys)


class StateCalls:
    """Answers both calls. A state is at most `max_bytes`."""

    def __init__(
        self,
        registry: ModelRegistry,
        requests: InFlightRequests,
        states: SequenceStates,
        keys: SequenceKeys,
        max_bytes: int,
    ) -> None:
        self._registry, self._requests, self._states = registry, requests, states
        self._keys, self._max_bytes = keys, max_bytes

    async def get(self, request: pb.GetSequenceRequest) -> pb.GetSequenceReply:
        """
        Raises:
            ServingError: as the registry's; BAD_INPUT, no sequence is named; DENIED, states are for admins;
                as `SequenceStates.get`; REFUSED_STATE, the state is too large.
        """
        served = self._step_wise(request.model, request.version)
        is_admin = self._check_caller()
        spec, owner = served.spec, request.owner
        if owner not in ("", current.get().name) and not is_admin:
            raise _denied("only an admin gets the sequences of others; leave owner out")
        kind = request.WhichOneof("sequence")
        if kind == "id":
            id_ = sequence_ids.value(request.id, "id")
            key = sequence_ids.owned_by(owner, id_) if owner else sequence_ids.owned(id_)
            await self._registry.locate(spec.name, key)
            served = self._registry.resolve_step(spec.name, request.version, key, start=False)
            answer = await self._states.get(model=spec.name, version=served.spec.version, sequence=key)
        elif kind == "stream_id":
            stream = _stream(request.stream_id)
            answer = await self._states.get(model=spec.name, version=spec.version, **stream)
        else:
            raise bad_input("id", "missing; name a sequence by its id, or a stream by its stream_id")
        state = answer.state
        assert state is not None
        if answer.model != spec.name or not (is_admin or state.caller == current.get().name):
            raise ServingError(ErrorCode.SEQUENCE_LOST, "no live sequence of this caller has this id")
        size = sum(array.nbytes for array in state.states.values())
        if size > self._max_bytes:
            why = f"the state has {size} bytes, above the server's limit of {self._max_bytes}"
            raise ServingError(ErrorCode.REFUSED_STATE, f"{why} (max_sequence_mb)")
        places = (self._registry.get(answer.model, answer.version), served)
        found = next((one.spec for one in places if one and one.spec.files == answer.files), None)
        if found is None:
            raise ServingError(ErrorCode.REFUSED_STATE, "the model was loaded again, from other files")
        signed = await off_loop(size // _BYTES_PER_STEP, self._signed, found, state, request)
        return pb.GetSequenceReply(
            state=signed,
            model=found.model,
            version=str(found.version),
            position=_position(state),
            tokens=state.tokens,
        )

    async def put(self, request: pb.PutSequenceRequest, context: Context) -> pb.PutSequenceReply:
        """
        Raises:
            ServingError: BAD_INPUT, damaged; DENIED, forged, or another caller's; REFUSED_STATE, of another
                version, or of other files; UNAVAILABLE, the server stops; as `SequenceStates.put`.
        """
        if not request.state:
            raise bad_input("state", "missing; send the bytes that GetSequence returned")
        is_admin = self._check_caller()
        if len(request.state) > self._max_bytes + (1 << 20):
            raise bad_input("state", f"{len(request.state)} bytes, above the limit (max_sequence_mb)")
        state = await off_loop(len(request.state) // _BYTES_PER_STEP, self._verified, request.state)
        caller = current.get()
        if not is_admin and state.caller != caller.name:
            raise _denied("the state is of another caller's sequence")
        if not caller.may_use(state.model):
            raise _denied(f"caller {caller.name!r} may not use model {state.model!r}")
        self._requests.check_not_draining()
        served = state_messages.served_by(self._registry, state)
        spec = served.spec
        carried = state_messages.read(served, state, context)
        if request.HasField("seed"):
            if carried.generation is None:
                raise bad_input("seed", "the caller drives this sequence, which has no seed; leave it out")
            carried = replace(carried, generation=replace(carried.generation, seed=request.seed))
        if request.HasField("id"):
            id_ = sequence_ids.value(request.id, "id")
        elif state.HasField("id"):
            id_ = sequence_ids.value(state.id, "state.id")
        else:
            id_ = secrets.token_hex(8)
        sequence = sequence_ids.owned_by(state.caller, id_)
        put = messages.PutSequence(
            key=0,
            model=spec.name,
            version=spec.version,
            sequence=sequence,
            state=carried,
            max_slots=caller.slots or 0,
        )
        await self._states.put(put)
        if carried.generation is None:
            served.sequence_put(sequence)
        return pb.PutSequenceReply(
            id=_id(id_), model=spec.model, version=str(spec.version), position=_position(carried)
        )

    def _check_caller(self) -> bool:
        """Whether the caller is an admin.

        Raises:
            ServingError: DENIED, states are for admins.
        """
        is_admin = "admin" in current.get().permissions
        if not (is_admin or self._keys.keys):
            raise _denied("states of sequences are for admins, as the server has no --sequence-key-file")
        return is_admin

    def _step_wise(self, model: str, version: str) -> ServedModel:
        served = self._registry.resolve(model, version)
        return served if served.spec.is_stepwise else self._registry.stepwise(model, version, "GetSequence")

    def _signed(
        self, spec: ModelSpec, state: messages.SequenceState, request: pb.GetSequenceRequest
    ) -> bytes:
        message = state_messages.written(spec, state, request.id if request.HasField("id") else None)
        content = message.SerializeToString()
        return pb.SignedState(state=content, signature=self._keys.sign(content)).SerializeToString()

    def _verified(self, data: bytes) -> pb.SequenceState:
        try:
            signed = pb.SignedState.FromString(data)
            if self._keys.keys and not self._keys.verifies(signed.state, signed.signature):
                raise _denied("the signature of the state is not of this server's keys")
            return pb.SequenceState.FromString(signed.state)
        except DecodeError:
            raise bad_input("state", "damaged: send the bytes that GetSequence returned") from None


def _denied(why: str) -> ServingError:
    return ServingError(ErrorCode.DENIED, why)


def _id(sequence: int | str) -> pb.SequenceId:
    return pb.SequenceId(number=sequence) if isinstance(sequence, int) else pb.SequenceId(text=sequence)


def _position(state: messages.SequenceState) -> int:
    if state.generation is None:
        return state.steps
    return len(state.generation.prompt) + len(state.tokens)


def follow_stream_id(sequence: messages.SequenceId) -> str:
    """The stream_id of a Follow, whose sequence has an id of the server's own."""
    assert isinstance(sequence, tuple)
    return f"{_FOLLOW}-{sequence[1]:x}"


def _stream(stream_id: str) -> dict[str, Any]:
    """The fields of `GetSequence` that name a stream."""
    kind, dash, number = stream_id.rpartition("-")
    try:
        key = int(number, 16)
    except ValueError:
        key = 0
    if not 0 < key < 1 << 63 or kind + dash not in ("", f"{_FOLLOW}-"):
        why = f"{tensors.quoted(stream_id)} is none; send that of a stream's first reply"
        raise bad_input("stream_id", why)
    return {"sequence": ("", key)} if kind else {"stream": key}
