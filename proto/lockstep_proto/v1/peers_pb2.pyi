from lockstep_proto.v1 import sequences_pb2 as _sequences_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HoldState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HOLD_STATE_UNSPECIFIED: _ClassVar[HoldState]
    HOLD_STATE_ACTIVATING: _ClassVar[HoldState]
    HOLD_STATE_LIVE: _ClassVar[HoldState]
    HOLD_STATE_GONE: _ClassVar[HoldState]
    HOLD_STATE_UNKNOWN: _ClassVar[HoldState]

class PullResult(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PULL_RESULT_UNSPECIFIED: _ClassVar[PullResult]
    PULL_RESULT_ABSENT: _ClassVar[PullResult]
    PULL_RESULT_MOVED: _ClassVar[PullResult]
    PULL_RESULT_BUSY: _ClassVar[PullResult]
    PULL_RESULT_STAYS: _ClassVar[PullResult]
    PULL_RESULT_LEFT: _ClassVar[PullResult]
HOLD_STATE_UNSPECIFIED: HoldState
HOLD_STATE_ACTIVATING: HoldState
HOLD_STATE_LIVE: HoldState
HOLD_STATE_GONE: HoldState
HOLD_STATE_UNKNOWN: HoldState
PULL_RESULT_UNSPECIFIED: PullResult
PULL_RESULT_ABSENT: PullResult
PULL_RESULT_MOVED: PullResult
PULL_RESULT_BUSY: PullResult
PULL_RESULT_STAYS: PullResult
PULL_RESULT_LEFT: PullResult

class PeerMessage(_message.Message):
    __slots__ = ("content", "signature")
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    content: bytes
    signature: bytes
    def __init__(self, content: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class HelloRequest(_message.Message):
    __slots__ = ("nonce",)
    NONCE_FIELD_NUMBER: _ClassVar[int]
    nonce: bytes
    def __init__(self, nonce: _Optional[bytes] = ...) -> None: ...

class HelloReply(_message.Message):
    __slots__ = ("incarnation", "server")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    server: str
    def __init__(self, incarnation: _Optional[str] = ..., server: _Optional[str] = ...) -> None: ...

class OwnedSequence(_message.Message):
    __slots__ = ("id", "owner")
    ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    id: _sequences_pb2.SequenceId
    owner: str
    def __init__(self, id: _Optional[_Union[_sequences_pb2.SequenceId, _Mapping]] = ..., owner: _Optional[str] = ...) -> None: ...

class OfferRequest(_message.Message):
    __slots__ = ("incarnation", "sequence", "state")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    sequence: OwnedSequence
    state: _sequences_pb2.SequenceState
    def __init__(self, incarnation: _Optional[str] = ..., sequence: _Optional[_Union[OwnedSequence, _Mapping]] = ..., state: _Optional[_Union[_sequences_pb2.SequenceState, _Mapping]] = ...) -> None: ...

class OfferReply(_message.Message):
    __slots__ = ("incarnation", "number", "refusal")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    number: int
    refusal: str
    def __init__(self, incarnation: _Optional[str] = ..., number: _Optional[int] = ..., refusal: _Optional[str] = ...) -> None: ...

class ConfirmRequest(_message.Message):
    __slots__ = ("incarnation", "number")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    number: int
    def __init__(self, incarnation: _Optional[str] = ..., number: _Optional[int] = ...) -> None: ...

class ConfirmReply(_message.Message):
    __slots__ = ("incarnation", "state", "refusal")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    state: HoldState
    refusal: str
    def __init__(self, incarnation: _Optional[str] = ..., state: _Optional[_Union[HoldState, str]] = ..., refusal: _Optional[str] = ...) -> None: ...

class PullRequest(_message.Message):
    __slots__ = ("incarnation", "to", "model", "sequence")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    to: str
    model: str
    sequence: OwnedSequence
    def __init__(self, incarnation: _Optional[str] = ..., to: _Optional[str] = ..., model: _Optional[str] = ..., sequence: _Optional[_Union[OwnedSequence, _Mapping]] = ...) -> None: ...

class PullReply(_message.Message):
    __slots__ = ("incarnation", "result", "why")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    result: PullResult
    why: str
    def __init__(self, incarnation: _Optional[str] = ..., result: _Optional[_Union[PullResult, str]] = ..., why: _Optional[str] = ...) -> None: ...
