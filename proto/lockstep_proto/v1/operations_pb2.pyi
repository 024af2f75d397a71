from lockstep_proto.v1 import sequences_pb2 as _sequences_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RunKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RUN_KIND_UNSPECIFIED: _ClassVar[RunKind]
    RUN_KIND_ONE_SHOT: _ClassVar[RunKind]
    RUN_KIND_PREFILL: _ClassVar[RunKind]
    RUN_KIND_STEP: _ClassVar[RunKind]
    RUN_KIND_CLIENT_STEP: _ClassVar[RunKind]
RUN_KIND_UNSPECIFIED: RunKind
RUN_KIND_ONE_SHOT: RunKind
RUN_KIND_PREFILL: RunKind
RUN_KIND_STEP: RunKind
RUN_KIND_CLIENT_STEP: RunKind

class DescribeRequest(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class DescribeReply(_message.Message):
    __slots__ = ("forms",)
    FORMS_FIELD_NUMBER: _ClassVar[int]
    forms: _containers.RepeatedCompositeFieldContainer[ModelForm]
    def __init__(self, forms: _Optional[_Iterable[_Union[ModelForm, _Mapping]]] = ...) -> None: ...

class DescribedTensor(_message.Message):
    __slots__ = ("name", "datatype", "shape", "axes", "optional", "role")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DATATYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    AXES_FIELD_NUMBER: _ClassVar[int]
    OPTIONAL_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    name: str
    datatype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    axes: _containers.RepeatedScalarFieldContainer[str]
    optional: bool
    role: str
    def __init__(self, name: _Optional[str] = ..., datatype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., axes: _Optional[_Iterable[str]] = ..., optional: _Optional[bool] = ..., role: _Optional[str] = ...) -> None: ...

class DescribedLength(_message.Message):
    __slots__ = ("name", "max")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    name: str
    max: int
    def __init__(self, name: _Optional[str] = ..., max: _Optional[int] = ...) -> None: ...

class DescribedCost(_message.Message):
    __slots__ = ("rows", "length", "seconds")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    rows: int
    length: int
    seconds: float
    def __init__(self, rows: _Optional[int] = ..., length: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class ModelForm(_message.Message):
    __slots__ = ("name", "model", "version", "step_wise", "task", "methods", "reads_text", "inputs", "outputs", "lengths", "labels", "notice", "max_rows", "max_sequences", "costs", "device", "load_seconds")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STEP_WISE_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    READS_TEXT_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    MAX_ROWS_FIELD_NUMBER: _ClassVar[int]
    MAX_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    COSTS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    LOAD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    model: str
    version: str
    step_wise: bool
    task: str
    methods: _containers.RepeatedScalarFieldContainer[str]
    reads_text: bool
    inputs: _containers.RepeatedCompositeFieldContainer[DescribedTensor]
    outputs: _containers.RepeatedCompositeFieldContainer[DescribedTensor]
    lengths: _containers.RepeatedCompositeFieldContainer[DescribedLength]
    labels: _containers.RepeatedScalarFieldContainer[str]
    notice: str
    max_rows: int
    max_sequences: int
    costs: _containers.RepeatedCompositeFieldContainer[DescribedCost]
    device: str
    load_seconds: float
    def __init__(self, name: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., step_wise: _Optional[bool] = ..., task: _Optional[str] = ..., methods: _Optional[_Iterable[str]] = ..., reads_text: _Optional[bool] = ..., inputs: _Optional[_Iterable[_Union[DescribedTensor, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[DescribedTensor, _Mapping]]] = ..., lengths: _Optional[_Iterable[_Union[DescribedLength, _Mapping]]] = ..., labels: _Optional[_Iterable[str]] = ..., notice: _Optional[str] = ..., max_rows: _Optional[int] = ..., max_sequences: _Optional[int] = ..., costs: _Optional[_Iterable[_Union[DescribedCost, _Mapping]]] = ..., device: _Optional[str] = ..., load_seconds: _Optional[float] = ...) -> None: ...

class RunsRequest(_message.Message):
    __slots__ = ("model", "after", "follow")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    model: str
    after: int
    follow: bool
    def __init__(self, model: _Optional[str] = ..., after: _Optional[int] = ..., follow: _Optional[bool] = ...) -> None: ...

class RunsReply(_message.Message):
    __slots__ = ("runs",)
    RUNS_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[Run]
    def __init__(self, runs: _Optional[_Iterable[_Union[Run, _Mapping]]] = ...) -> None: ...

class Run(_message.Message):
    __slots__ = ("number", "model", "version", "kind", "begun", "rows", "padded_rows", "length", "elements", "padded_elements", "queue_seconds", "device_wait_seconds", "input_seconds", "compute_seconds", "output_seconds", "requests", "joined", "left", "cold", "failed")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    BEGUN_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    PADDED_ROWS_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    PADDED_ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    INPUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    JOINED_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    COLD_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    number: int
    model: str
    version: str
    kind: RunKind
    begun: float
    rows: int
    padded_rows: int
    length: int
    elements: int
    padded_elements: int
    queue_seconds: float
    device_wait_seconds: float
    input_seconds: float
    compute_seconds: float
    output_seconds: float
    requests: _containers.RepeatedScalarFieldContainer[int]
    joined: _containers.RepeatedScalarFieldContainer[int]
    left: _containers.RepeatedScalarFieldContainer[int]
    cold: bool
    failed: bool
    def __init__(self, number: _Optional[int] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., kind: _Optional[_Union[RunKind, str]] = ..., begun: _Optional[float] = ..., rows: _Optional[int] = ..., padded_rows: _Optional[int] = ..., length: _Optional[int] = ..., elements: _Optional[int] = ..., padded_elements: _Optional[int] = ..., queue_seconds: _Optional[float] = ..., device_wait_seconds: _Optional[float] = ..., input_seconds: _Optional[float] = ..., compute_seconds: _Optional[float] = ..., output_seconds: _Optional[float] = ..., requests: _Optional[_Iterable[int]] = ..., joined: _Optional[_Iterable[int]] = ..., left: _Optional[_Iterable[int]] = ..., cold: _Optional[bool] = ..., failed: _Optional[bool] = ...) -> None: ...

class RequestsRequest(_message.Message):
    __slots__ = ("model", "id", "since_seconds", "limit")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    SINCE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    model: str
    id: str
    since_seconds: float
    limit: int
    def __init__(self, model: _Optional[str] = ..., id: _Optional[str] = ..., since_seconds: _Optional[float] = ..., limit: _Optional[int] = ...) -> None: ...

class RequestsReply(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[EndedRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[EndedRequest, _Mapping]]] = ...) -> None: ...

class EndedRequest(_message.Message):
    __slots__ = ("model", "version", "method", "outcome", "arrived", "seconds", "admission_seconds", "timings", "length")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ARRIVED_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    ADMISSION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    method: str
    outcome: str
    arrived: float
    seconds: float
    admission_seconds: float
    timings: _sequences_pb2.Timings
    length: int
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., method: _Optional[str] = ..., outcome: _Optional[str] = ..., arrived: _Optional[float] = ..., seconds: _Optional[float] = ..., admission_seconds: _Optional[float] = ..., timings: _Optional[_Union[_sequences_pb2.Timings, _Mapping]] = ..., length: _Optional[int] = ...) -> None: ...
