from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Aggregation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AGGREGATION_UNSPECIFIED: _ClassVar[Aggregation]
    AGGREGATION_NONE: _ClassVar[Aggregation]
    AGGREGATION_FIRST: _ClassVar[Aggregation]
    AGGREGATION_AVERAGE: _ClassVar[Aggregation]
    AGGREGATION_MAX: _ClassVar[Aggregation]

class StopReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STOP_REASON_UNSPECIFIED: _ClassVar[StopReason]
    STOP_REASON_END: _ClassVar[StopReason]
    STOP_REASON_LENGTH: _ClassVar[StopReason]
    STOP_REASON_STOP: _ClassVar[StopReason]
AGGREGATION_UNSPECIFIED: Aggregation
AGGREGATION_NONE: Aggregation
AGGREGATION_FIRST: Aggregation
AGGREGATION_AVERAGE: Aggregation
AGGREGATION_MAX: Aggregation
STOP_REASON_UNSPECIFIED: StopReason
STOP_REASON_END: StopReason
STOP_REASON_LENGTH: StopReason
STOP_REASON_STOP: StopReason

class Ids(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("queue_seconds", "compute_seconds", "steps", "batch_rows", "prefill_seconds", "first_token_seconds", "request_id")
    QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    BATCH_ROWS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    FIRST_TOKEN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    queue_seconds: float
    compute_seconds: float
    steps: int
    batch_rows: float
    prefill_seconds: float
    first_token_seconds: float
    request_id: str
    def __init__(self, queue_seconds: _Optional[float] = ..., compute_seconds: _Optional[float] = ..., steps: _Optional[int] = ..., batch_rows: _Optional[float] = ..., prefill_seconds: _Optional[float] = ..., first_token_seconds: _Optional[float] = ..., request_id: _Optional[str] = ...) -> None: ...

class Label(_message.Message):
    __slots__ = ("name", "index", "probability", "score")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    name: str
    index: int
    probability: float
    score: float
    def __init__(self, name: _Optional[str] = ..., index: _Optional[int] = ..., probability: _Optional[float] = ..., score: _Optional[float] = ...) -> None: ...

class ClassifyRequest(_message.Message):
    __slots__ = ("model", "version", "texts", "ids", "top_k", "priority", "queue_timeout_seconds")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    QUEUE_TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    texts: _containers.RepeatedScalarFieldContainer[str]
    ids: _containers.RepeatedCompositeFieldContainer[Ids]
    top_k: int
    priority: int
    queue_timeout_seconds: float
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., texts: _Optional[_Iterable[str]] = ..., ids: _Optional[_Iterable[_Union[Ids, _Mapping]]] = ..., top_k: _Optional[int] = ..., priority: _Optional[int] = ..., queue_timeout_seconds: _Optional[float] = ...) -> None: ...

class Classification(_message.Message):
    __slots__ = ("labels", "length", "timings")
    LABELS_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    labels: _containers.RepeatedCompositeFieldContainer[Label]
    length: int
    timings: Timings
    def __init__(self, labels: _Optional[_Iterable[_Union[Label, _Mapping]]] = ..., length: _Optional[int] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

class ClassifyReply(_message.Message):
    __slots__ = ("model", "version", "results", "notice")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    results: _containers.RepeatedCompositeFieldContainer[Classification]
    notice: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., results: _Optional[_Iterable[_Union[Classification, _Mapping]]] = ..., notice: _Optional[str] = ...) -> None: ...

class ClassifyTokensRequest(_message.Message):
    __slots__ = ("model", "version", "texts", "ids", "top_k", "priority", "queue_timeout_seconds", "aggregation", "entities")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    QUEUE_TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    AGGREGATION_FIELD_NUMBER: _ClassVar[int]
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    texts: _containers.RepeatedScalarFieldContainer[str]
    ids: _containers.RepeatedCompositeFieldContainer[Ids]
    top_k: int
    priority: int
    queue_timeout_seconds: float
    aggregation: Aggregation
    entities: bool
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., texts: _Optional[_Iterable[str]] = ..., ids: _Optional[_Iterable[_Union[Ids, _Mapping]]] = ..., top_k: _Optional[int] = ..., priority: _Optional[int] = ..., queue_timeout_seconds: _Optional[float] = ..., aggregation: _Optional[_Union[Aggregation, str]] = ..., entities: _Optional[bool] = ...) -> None: ...

class LabeledSpan(_message.Message):
    __slots__ = ("start", "end", "text", "labels", "token", "tokens")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    start: int
    end: int
    text: str
    labels: _containers.RepeatedCompositeFieldContainer[Label]
    token: int
    tokens: int
    def __init__(self, start: _Optional[int] = ..., end: _Optional[int] = ..., text: _Optional[str] = ..., labels: _Optional[_Iterable[_Union[Label, _Mapping]]] = ..., token: _Optional[int] = ..., tokens: _Optional[int] = ...) -> None: ...

class TokenClassification(_message.Message):
    __slots__ = ("spans", "length", "timings")
    SPANS_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    spans: _containers.RepeatedCompositeFieldContainer[LabeledSpan]
    length: int
    timings: Timings
    def __init__(self, spans: _Optional[_Iterable[_Union[LabeledSpan, _Mapping]]] = ..., length: _Optional[int] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

class ClassifyTokensReply(_message.Message):
    __slots__ = ("model", "version", "results", "notice")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    results: _containers.RepeatedCompositeFieldContainer[TokenClassification]
    notice: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., results: _Optional[_Iterable[_Union[TokenClassification, _Mapping]]] = ..., notice: _Optional[str] = ...) -> None: ...

class EncodeRequest(_message.Message):
    __slots__ = ("model", "version", "texts", "ids", "attention", "priority", "queue_timeout_seconds")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    QUEUE_TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    texts: _containers.RepeatedScalarFieldContainer[str]
    ids: _containers.RepeatedCompositeFieldContainer[Ids]
    attention: bool
    priority: int
    queue_timeout_seconds: float
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., texts: _Optional[_Iterable[str]] = ..., ids: _Optional[_Iterable[_Union[Ids, _Mapping]]] = ..., attention: _Optional[bool] = ..., priority: _Optional[int] = ..., queue_timeout_seconds: _Optional[float] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("shape", "values")
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    shape: _containers.RepeatedScalarFieldContainer[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, shape: _Optional[_Iterable[int]] = ..., values: _Optional[_Iterable[float]] = ...) -> None: ...

class Encoding(_message.Message):
    __slots__ = ("vector", "attention", "tokens", "length", "timings")
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    vector: _containers.RepeatedScalarFieldContainer[float]
    attention: Tensor
    tokens: _containers.RepeatedScalarFieldContainer[str]
    length: int
    timings: Timings
    def __init__(self, vector: _Optional[_Iterable[float]] = ..., attention: _Optional[_Union[Tensor, _Mapping]] = ..., tokens: _Optional[_Iterable[str]] = ..., length: _Optional[int] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

class EncodeReply(_message.Message):
    __slots__ = ("model", "version", "results", "notice")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    results: _containers.RepeatedCompositeFieldContainer[Encoding]
    notice: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., results: _Optional[_Iterable[_Union[Encoding, _Mapping]]] = ..., notice: _Optional[str] = ...) -> None: ...

class NamedTensor(_message.Message):
    __slots__ = ("name", "datatype", "shape", "contents")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    CONTENTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    datatype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    contents: bytes
    def __init__(self, name: _Optional[str] = ..., datatype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., contents: _Optional[bytes] = ...) -> None: ...

class Frames(_message.Message):
    __slots__ = ("tensors",)
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    tensors: _containers.RepeatedCompositeFieldContainer[NamedTensor]
    def __init__(self, tensors: _Optional[_Iterable[_Union[NamedTensor, _Mapping]]] = ...) -> None: ...

class TranscribeRequest(_message.Message):
    __slots__ = ("model", "version", "frames", "priority", "queue_timeout_seconds")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    QUEUE_TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    frames: _containers.RepeatedCompositeFieldContainer[Frames]
    priority: int
    queue_timeout_seconds: float
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., frames: _Optional[_Iterable[_Union[Frames, _Mapping]]] = ..., priority: _Optional[int] = ..., queue_timeout_seconds: _Optional[float] = ...) -> None: ...

class TranscriptToken(_message.Message):
    __slots__ = ("id", "start", "end")
    ID_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    id: int
    start: int
    end: int
    def __init__(self, id: _Optional[int] = ..., start: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class Transcript(_message.Message):
    __slots__ = ("text", "tokens", "length", "timings")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    text: str
    tokens: _containers.RepeatedCompositeFieldContainer[TranscriptToken]
    length: int
    timings: Timings
    def __init__(self, text: _Optional[str] = ..., tokens: _Optional[_Iterable[_Union[TranscriptToken, _Mapping]]] = ..., length: _Optional[int] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

class TranscribeReply(_message.Message):
    __slots__ = ("model", "version", "results", "notice")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    results: _containers.RepeatedCompositeFieldContainer[Transcript]
    notice: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., results: _Optional[_Iterable[_Union[Transcript, _Mapping]]] = ..., notice: _Optional[str] = ...) -> None: ...

class FollowStart(_message.Message):
    __slots__ = ("model", "version", "top_k", "outputs", "prompt", "sequence")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    top_k: int
    outputs: _containers.RepeatedScalarFieldContainer[str]
    prompt: bool
    sequence: SequenceId
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., top_k: _Optional[int] = ..., outputs: _Optional[_Iterable[str]] = ..., prompt: _Optional[bool] = ..., sequence: _Optional[_Union[SequenceId, _Mapping]] = ...) -> None: ...

class FollowRequest(_message.Message):
    __slots__ = ("start", "text", "ids", "flush", "frames")
    START_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    FLUSH_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    start: FollowStart
    text: str
    ids: Ids
    flush: bool
    frames: Frames
    def __init__(self, start: _Optional[_Union[FollowStart, _Mapping]] = ..., text: _Optional[str] = ..., ids: _Optional[_Union[Ids, _Mapping]] = ..., flush: _Optional[bool] = ..., frames: _Optional[_Union[Frames, _Mapping]] = ...) -> None: ...

class FollowReply(_message.Message):
    __slots__ = ("position", "id", "element", "labels", "computed_elements", "timings", "notice", "model", "version", "outputs", "text", "kept_characters", "stream_id")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    ELEMENT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    COMPUTED_ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    KEPT_CHARACTERS_FIELD_NUMBER: _ClassVar[int]
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    position: int
    id: int
    element: str
    labels: _containers.RepeatedCompositeFieldContainer[Label]
    computed_elements: int
    timings: Timings
    notice: str
    model: str
    version: str
    outputs: _containers.RepeatedCompositeFieldContainer[NamedTensor]
    text: str
    kept_characters: int
    stream_id: str
    def __init__(self, position: _Optional[int] = ..., id: _Optional[int] = ..., element: _Optional[str] = ..., labels: _Optional[_Iterable[_Union[Label, _Mapping]]] = ..., computed_elements: _Optional[int] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., notice: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., outputs: _Optional[_Iterable[_Union[NamedTensor, _Mapping]]] = ..., text: _Optional[str] = ..., kept_characters: _Optional[int] = ..., stream_id: _Optional[str] = ...) -> None: ...

class Decoding(_message.Message):
    __slots__ = ("repetition_penalty", "presence_penalty", "no_repeat", "min_tokens", "logit_bias", "forbidden", "beams", "length_penalty", "early_stopping")
    class LogitBiasEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: float
        def __init__(self, key: _Optional[int] = ..., value: _Optional[float] = ...) -> None: ...
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    NO_REPEAT_FIELD_NUMBER: _ClassVar[int]
    MIN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_FIELD_NUMBER: _ClassVar[int]
    FORBIDDEN_FIELD_NUMBER: _ClassVar[int]
    BEAMS_FIELD_NUMBER: _ClassVar[int]
    LENGTH_PENALTY_FIELD_NUMBER: _ClassVar[int]
    EARLY_STOPPING_FIELD_NUMBER: _ClassVar[int]
    repetition_penalty: float
    presence_penalty: float
    no_repeat: int
    min_tokens: int
    logit_bias: _containers.ScalarMap[int, float]
    forbidden: _containers.RepeatedScalarFieldContainer[int]
    beams: int
    length_penalty: float
    early_stopping: bool
    def __init__(self, repetition_penalty: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., no_repeat: _Optional[int] = ..., min_tokens: _Optional[int] = ..., logit_bias: _Optional[_Mapping[int, float]] = ..., forbidden: _Optional[_Iterable[int]] = ..., beams: _Optional[int] = ..., length_penalty: _Optional[float] = ..., early_stopping: _Optional[bool] = ...) -> None: ...

class Alternative(_message.Message):
    __slots__ = ("tokens", "text", "score", "reason")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    text: str
    score: float
    reason: StopReason
    def __init__(self, tokens: _Optional[_Iterable[int]] = ..., text: _Optional[str] = ..., score: _Optional[float] = ..., reason: _Optional[_Union[StopReason, str]] = ...) -> None: ...

class TopTokens(_message.Message):
    __slots__ = ("ids", "log_probabilities", "texts")
    IDS_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    log_probabilities: _containers.RepeatedScalarFieldContainer[float]
    texts: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, ids: _Optional[_Iterable[int]] = ..., log_probabilities: _Optional[_Iterable[float]] = ..., texts: _Optional[_Iterable[str]] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("model", "version", "text", "ids", "max_tokens", "temperature", "top_k", "top_p", "seed", "stop", "log_probabilities", "priority", "decoding", "top_log_probabilities", "samples", "resume")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    DECODING_FIELD_NUMBER: _ClassVar[int]
    TOP_LOG_PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    text: str
    ids: Ids
    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    seed: int
    stop: _containers.RepeatedScalarFieldContainer[str]
    log_probabilities: bool
    priority: int
    decoding: Decoding
    top_log_probabilities: int
    samples: int
    resume: Resume
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., text: _Optional[str] = ..., ids: _Optional[_Union[Ids, _Mapping]] = ..., max_tokens: _Optional[int] = ..., temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., seed: _Optional[int] = ..., stop: _Optional[_Iterable[str]] = ..., log_probabilities: _Optional[bool] = ..., priority: _Optional[int] = ..., decoding: _Optional[_Union[Decoding, _Mapping]] = ..., top_log_probabilities: _Optional[int] = ..., samples: _Optional[int] = ..., resume: _Optional[_Union[Resume, _Mapping]] = ...) -> None: ...

class Resume(_message.Message):
    __slots__ = ("tokens", "sequence")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    sequence: SequenceId
    def __init__(self, tokens: _Optional[_Iterable[int]] = ..., sequence: _Optional[_Union[SequenceId, _Mapping]] = ...) -> None: ...

class GenerateReply(_message.Message):
    __slots__ = ("tokens", "text", "log_probabilities", "reason", "timings", "seed", "notice", "model", "version", "top", "alternatives", "sample", "stream_id")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    ALTERNATIVES_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    text: str
    log_probabilities: _containers.RepeatedScalarFieldContainer[float]
    reason: StopReason
    timings: Timings
    seed: int
    notice: str
    model: str
    version: str
    top: _containers.RepeatedCompositeFieldContainer[TopTokens]
    alternatives: _containers.RepeatedCompositeFieldContainer[Alternative]
    sample: int
    stream_id: str
    def __init__(self, tokens: _Optional[_Iterable[int]] = ..., text: _Optional[str] = ..., log_probabilities: _Optional[_Iterable[float]] = ..., reason: _Optional[_Union[StopReason, str]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., seed: _Optional[int] = ..., notice: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., top: _Optional[_Iterable[_Union[TopTokens, _Mapping]]] = ..., alternatives: _Optional[_Iterable[_Union[Alternative, _Mapping]]] = ..., sample: _Optional[int] = ..., stream_id: _Optional[str] = ...) -> None: ...

class TranslateRequest(_message.Message):
    __slots__ = ("model", "version", "text", "ids", "max_tokens", "attention", "priority", "decoding", "resume")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    DECODING_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    text: str
    ids: Ids
    max_tokens: int
    attention: bool
    priority: int
    decoding: Decoding
    resume: Resume
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., text: _Optional[str] = ..., ids: _Optional[_Union[Ids, _Mapping]] = ..., max_tokens: _Optional[int] = ..., attention: _Optional[bool] = ..., priority: _Optional[int] = ..., decoding: _Optional[_Union[Decoding, _Mapping]] = ..., resume: _Optional[_Union[Resume, _Mapping]] = ...) -> None: ...

class AttentionRow(_message.Message):
    __slots__ = ("weights",)
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    weights: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, weights: _Optional[_Iterable[float]] = ...) -> None: ...

class TranslateReply(_message.Message):
    __slots__ = ("tokens", "text", "attention", "source_tokens", "pieces", "reason", "timings", "notice", "model", "version", "alternatives", "stream_id")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PIECES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ALTERNATIVES_FIELD_NUMBER: _ClassVar[int]
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    text: str
    attention: _containers.RepeatedCompositeFieldContainer[AttentionRow]
    source_tokens: _containers.RepeatedScalarFieldContainer[str]
    pieces: _containers.RepeatedScalarFieldContainer[str]
    reason: StopReason
    timings: Timings
    notice: str
    model: str
    version: str
    alternatives: _containers.RepeatedCompositeFieldContainer[Alternative]
    stream_id: str
    def __init__(self, tokens: _Optional[_Iterable[int]] = ..., text: _Optional[str] = ..., attention: _Optional[_Iterable[_Union[AttentionRow, _Mapping]]] = ..., source_tokens: _Optional[_Iterable[str]] = ..., pieces: _Optional[_Iterable[str]] = ..., reason: _Optional[_Union[StopReason, str]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., notice: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., alternatives: _Optional[_Iterable[_Union[Alternative, _Mapping]]] = ..., stream_id: _Optional[str] = ...) -> None: ...

class SequenceId(_message.Message):
    __slots__ = ("number", "text")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    number: int
    text: str
    def __init__(self, number: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class GetSequenceRequest(_message.Message):
    __slots__ = ("model", "version", "id", "stream_id", "owner")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    id: SequenceId
    stream_id: str
    owner: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., id: _Optional[_Union[SequenceId, _Mapping]] = ..., stream_id: _Optional[str] = ..., owner: _Optional[str] = ...) -> None: ...

class GetSequenceReply(_message.Message):
    __slots__ = ("state", "model", "version", "position", "tokens")
    STATE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    state: bytes
    model: str
    version: str
    position: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, state: _Optional[bytes] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., position: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ...) -> None: ...

class PutSequenceRequest(_message.Message):
    __slots__ = ("state", "id", "seed")
    STATE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    state: bytes
    id: SequenceId
    seed: int
    def __init__(self, state: _Optional[bytes] = ..., id: _Optional[_Union[SequenceId, _Mapping]] = ..., seed: _Optional[int] = ...) -> None: ...

class PutSequenceReply(_message.Message):
    __slots__ = ("id", "model", "version", "position")
    ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    id: SequenceId
    model: str
    version: str
    position: int
    def __init__(self, id: _Optional[_Union[SequenceId, _Mapping]] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., position: _Optional[int] = ...) -> None: ...

class SignedState(_message.Message):
    __slots__ = ("state", "signature")
    STATE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    state: bytes
    signature: bytes
    def __init__(self, state: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class SequenceState(_message.Message):
    __slots__ = ("model", "version", "files", "caller", "id", "made", "states", "steps", "generate", "translate", "tokens", "next", "rest")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    MADE_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    GENERATE_FIELD_NUMBER: _ClassVar[int]
    TRANSLATE_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    REST_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    files: bytes
    caller: str
    id: SequenceId
    made: float
    states: _containers.RepeatedCompositeFieldContainer[NamedTensor]
    steps: int
    generate: GenerateRequest
    translate: TranslateRequest
    tokens: _containers.RepeatedScalarFieldContainer[int]
    next: int
    rest: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., files: _Optional[bytes] = ..., caller: _Optional[str] = ..., id: _Optional[_Union[SequenceId, _Mapping]] = ..., made: _Optional[float] = ..., states: _Optional[_Iterable[_Union[NamedTensor, _Mapping]]] = ..., steps: _Optional[int] = ..., generate: _Optional[_Union[GenerateRequest, _Mapping]] = ..., translate: _Optional[_Union[TranslateRequest, _Mapping]] = ..., tokens: _Optional[_Iterable[int]] = ..., next: _Optional[int] = ..., rest: _Optional[_Iterable[int]] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("code", "message", "field", "resource", "retry_after_seconds")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_SECONDS_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    field: str
    resource: str
    retry_after_seconds: float
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., field: _Optional[str] = ..., resource: _Optional[str] = ..., retry_after_seconds: _Optional[float] = ...) -> None: ...

class ClassifyOutcome(_message.Message):
    __slots__ = ("number", "classification", "failure")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    CLASSIFICATION_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    number: int
    classification: Classification
    failure: Failure
    def __init__(self, number: _Optional[int] = ..., classification: _Optional[_Union[Classification, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class ClassifyManyReply(_message.Message):
    __slots__ = ("model", "version", "outcomes", "notice")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    outcomes: _containers.RepeatedCompositeFieldContainer[ClassifyOutcome]
    notice: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., outcomes: _Optional[_Iterable[_Union[ClassifyOutcome, _Mapping]]] = ..., notice: _Optional[str] = ...) -> None: ...

class ClassifyTokensOutcome(_message.Message):
    __slots__ = ("number", "classification", "failure")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    CLASSIFICATION_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    number: int
    classification: TokenClassification
    failure: Failure
    def __init__(self, number: _Optional[int] = ..., classification: _Optional[_Union[TokenClassification, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class ClassifyTokensManyReply(_message.Message):
    __slots__ = ("model", "version", "outcomes", "notice")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    outcomes: _containers.RepeatedCompositeFieldContainer[ClassifyTokensOutcome]
    notice: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., outcomes: _Optional[_Iterable[_Union[ClassifyTokensOutcome, _Mapping]]] = ..., notice: _Optional[str] = ...) -> None: ...

class EncodeOutcome(_message.Message):
    __slots__ = ("number", "encoding", "failure")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    number: int
    encoding: Encoding
    failure: Failure
    def __init__(self, number: _Optional[int] = ..., encoding: _Optional[_Union[Encoding, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class EncodeManyReply(_message.Message):
    __slots__ = ("model", "version", "outcomes", "notice")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    outcomes: _containers.RepeatedCompositeFieldContainer[EncodeOutcome]
    notice: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., outcomes: _Optional[_Iterable[_Union[EncodeOutcome, _Mapping]]] = ..., notice: _Optional[str] = ...) -> None: ...
