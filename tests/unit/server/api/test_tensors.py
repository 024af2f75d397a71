"""The tensor codec: every request either decodes or is refused as BAD_INPUT with a field."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import fakes
import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.server import sample_models

from lockstep_proto import open_inference_pb2 as pb
from lockstep_server import messages
from lockstep_server.api import tensor_replies, tensors
from lockstep_server.errors import ErrorCode, ServingError
from lockstep_server.model.manifest import Manifest, RolesSection, TensorSection
from lockstep_server.model.spec import ModelSpec

INPUTS = tuple(
    sample_models.tensor(
        name, TensorSection(range=(0, 9)) if name == "INT64" else TensorSection(), ("n", 2), name
    )
    for name in fakes.ONNX_TYPES
)
SPEC = ModelSpec("m", 1, Manifest(), tuple(INPUTS), ())


def spec_of(datatype: str) -> ModelSpec:
    return ModelSpec("m", 1, Manifest(), tuple(t for t in INPUTS if t.name == datatype), ())


def decodes_or_is_bad_input(spec: ModelSpec, request: pb.ModelInferRequest) -> None:
    try:
        arrays = tensors.decode(spec, request)
    except ServingError as error:
        refusal = error
        assert (refusal.code, bool(refusal.field)) == (ErrorCode.BAD_INPUT, True)
    else:
        for tensor in spec.inputs:
            if tensor.name in arrays:
                assert arrays[tensor.name].shape[1:] == (2,)


sizes = st.one_of(st.integers(-3, 4), st.sampled_from([2**31, 2**62, 2**63 - 1, -(2**63)]))
names = st.sampled_from([*fakes.ONNX_TYPES, "", "other"])


@st.composite
def requests(draw: Any) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="m")
    for _ in range(draw(st.integers(0, 3))):
        name = draw(names)
        tensor = request.inputs.add(
            name=name, datatype=draw(st.one_of(st.just(name), names)), shape=draw(st.lists(sizes, max_size=4))
        )
        field = draw(st.sampled_from([None, *fakes.TYPED.values()]))
        if field is not None:
            kind = getattr(tensor.contents, field)
            value = {"bool": True, "fp32": 1.5, "fp64": 1.5, "bytes": b"\xff"}.get(field.split("_")[0], 200)
            kind.extend([value] * draw(st.integers(0, 4)))
    request.raw_input_contents.extend(draw(st.lists(st.binary(max_size=40), max_size=3)))
    return request


@given(requests(), st.sampled_from(list(fakes.ONNX_TYPES)))
@settings(max_examples=400)
def test_a_random_request_decodes_or_is_refused(request_: pb.ModelInferRequest, datatype: str) -> None:
    decodes_or_is_bad_input(SPEC, request_)
    decodes_or_is_bad_input(spec_of(datatype), request_)


def valid_request() -> bytes:
    inputs = {"FP32": ("FP32", [[1, 2]]), "BYTES": ("BYTES", [["a", "b"]]), "INT64": ("INT64", [[1, 2]])}
    return fakes.request("m", inputs).SerializeToString()


SMALL_BYTES = len(valid_request())
SMALL = ModelSpec("m", 1, Manifest(), tuple(t for t in INPUTS if t.name in ("FP32", "BYTES", "INT64")), ())


@given(st.lists(st.tuples(st.integers(0, SMALL_BYTES - 1), st.integers(0, 255)), min_size=1, max_size=6))
@settings(max_examples=400)
def test_a_request_with_changed_bytes_decodes_or_is_refused(changes: list[tuple[int, int]]) -> None:
    content = bytearray(valid_request())
    for at, value in changes:
        content[at] = value
    try:
        request = pb.ModelInferRequest.FromString(bytes(content))
    except DecodeError:
        return
    decodes_or_is_bad_input(SMALL, request)


def test_a_valid_request_decodes() -> None:
    arrays = tensors.decode(SMALL, pb.ModelInferRequest.FromString(valid_request()))
    assert {name: array.tolist() for name, array in arrays.items()} == {
        "FP32": [[1, 2]],
        "BYTES": [["a", "b"]],
        "INT64": [[1, 2]],
    }


def _encoded(spec: ModelSpec, event: messages.Event, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    requested = tensor_replies.requested_outputs(spec, request)
    parts = tensor_replies.encode(spec, event, request.id, requested)
    return pb.ModelInferResponse.FromString(b"".join(parts))


@given(st.lists(st.text(), max_size=5))
def test_strings_survive_a_round_trip(texts: list[str]) -> None:
    texts = [text for text in texts if text.isprintable() or "\x00" in text]
    spec = ModelSpec(
        "m",
        1,
        Manifest(),
        (sample_models.tensor("x", TensorSection(), ("n",), "BYTES"),),
        (sample_models.tensor("x", TensorSection(), ("n",), "BYTES"),),
    )
    arrays = tensors.decode(spec, fakes.request("m", {"x": ("BYTES", np.array(texts, object))}))
    assert arrays["x"].tolist() == texts
    reply = _encoded(spec, messages.Event(key=1, outputs=arrays), pb.ModelInferRequest(id="id"))
    assert (reply.model_name, reply.model_version, reply.id) == ("m", "1", "id")
    assert fakes.values(reply, "x").tolist() == texts


def test_replies_differ_where_their_requests_do() -> None:
    """Most bytes of a reply are those of the one before."""
    spec = replace(sample_models.plain(), notice="not batched: why")
    for rows, queue_s, sent_id in ((1, 0.25, ""), (2, 0.5, "é"), (1, 0.0, "b" * 300)):
        array = np.full((rows, 3), rows, np.float32)
        timings = messages.RequestTimings(queue_s, 2.0, 1, 4.0)
        event = messages.Event(key=1, outputs={"y": array}, timings=timings)
        expected = pb.ModelInferResponse(model_name=spec.name, model_version="1", id=sent_id)
        for name, value in (("queue_seconds", queue_s), ("compute_seconds", 2.0), ("batch_rows", 4.0)):
            expected.parameters[name].double_param = value
        expected.parameters["notice"].string_param = spec.notice
        expected.outputs.add(name="y", datatype="FP32", shape=array.shape)
        expected.raw_output_contents.append(array.tobytes())
        assert _encoded(spec, event, pb.ModelInferRequest(id=sent_id)) == expected


@pytest.mark.parametrize(("value", "fits"), [(-1, False), (0, True), (8, True), (9, False)])
def test_a_range_is_half_open(value: int, fits: bool) -> None:
    request = fakes.request("m", {"INT64": ("INT64", [[0, value]])})
    if fits:
        tensors.decode(spec_of("INT64"), request)
    else:
        with pytest.raises(ServingError, match=f"INT64: id {value} is outside"):
            tensors.decode(spec_of("INT64"), request)


def test_nothing_is_allocated_for_a_shape_without_data() -> None:
    """A shape of a petabyte with no content is refused before any allocation."""
    request = pb.ModelInferRequest(model_name="m", raw_input_contents=[b""])
    request.inputs.add(name="FP64", datatype="FP64", shape=[2**50, 2])
    with pytest.raises(ServingError, match="0 bytes"):
        tensors.decode(spec_of("FP64"), request)


def test_class_counts_are_written_as_tritons_extension_writes_them() -> None:
    spec = sample_models.plain()
    manifest = replace(spec.manifest, labels=("no", "yes", "maybe"), roles=RolesSection(scores="y"))
    request = pb.ModelInferRequest()
    request.outputs.add(name="y").parameters["classification"].int64_param = 2
    scores = np.array([[1, 5, 2], [7.5, 0, 7.5]], np.float32)
    reply = _encoded(replace(spec, manifest=manifest), messages.Event(key=1, outputs={"y": scores}), request)
    assert (reply.outputs[0].datatype, list(reply.outputs[0].shape)) == ("BYTES", [2, 2])
    assert tensors._unpack("y", reply.raw_output_contents[0]) == [
        b"5.000000:1:yes", b"2.000000:2:maybe", b"7.500000:0:no", b"7.500000:2:maybe",
    ]  # fmt: skip


def test_a_class_count_below_one_is_refused() -> None:
    request = pb.ModelInferRequest()
    request.outputs.add(name="y").parameters["classification"].int64_param = 0
    with pytest.raises(ServingError, match="at least 1"):
        tensor_replies.requested_outputs(sample_models.plain(), request)


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP32", "FP64"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf"), 2.5, -0.5, 8.75, 9.0, -1.0])
def test_a_float_in_a_range_is_an_id_or_an_error(datatype: str, wrong: float) -> None:
    ids = sample_models.tensor("x", TensorSection(range=(0, 9)), ("n",), datatype)
    tensors.check_ids(ids, np.array([0, 8], fakes.NUMPY[datatype]))
    with pytest.raises(ServingError, match="from 0 to 8") as caught:
        tensors.check_ids(ids, np.array([1, wrong], fakes.NUMPY[datatype]))
    assert (caught.value.code, caught.value.field) == (ErrorCode.BAD_INPUT, "x")


@pytest.mark.parametrize(
    ("datatype", "fits", "wraps"),
    [
        ("INT32", 2**31 - 1, 2**31), ("INT32", -(2**31), -(2**31) - 1), ("INT8", 127, 128),
        ("UINT8", 255, -1), ("UINT64", 2**62, -1), ("FP32", 2**24, 2**24 + 1), ("FP16", 2048, 2049),
    ],
)  # fmt: skip
def test_ids_that_the_input_cannot_hold_are_refused_before_they_wrap(
    datatype: str, fits: int, wraps: int
) -> None:
    ids = sample_models.tensor("x", TensorSection(), ("n",), datatype)
    tensors.check_ids(ids, np.array([fits], np.int64), "ids[0]")
    with pytest.raises(ServingError, match=f"id {wraps} is outside") as caught:
        tensors.check_ids(ids, np.array([wraps], np.int64), "ids[0]")
    assert caught.value.field == "ids[0]"
