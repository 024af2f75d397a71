"""Requests are bounded by their bytes, and replies and typed contents are built from bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_proto import open_inference_pb2
from lockstep_proto.v1 import sequences_pb2 as pb
from lockstep_server.api import tensors, wire
from lockstep_server.errors import ErrorCode

INFER = open_inference_pb2.ModelInferRequest


def read(data: bytes, kind: Any = INFER) -> Any:
    return wire.reader(kind.FromString, kind.DESCRIPTOR)(data)


def many_parameters() -> bytes:
    request = INFER()
    for number in range(wire.MAX_FIELDS):
        request.parameters[str(number)].bool_param = True
    return request.SerializeToString()


def typed(**contents: Any) -> Any:
    request = INFER()
    tensor = request.inputs.add()
    for field, values in contents.items():
        getattr(tensor.contents, field).extend(values)
    return request


LARGE = {
    "inputs": INFER(inputs=[{}] * (wire.MAX_FIELDS + 1)).SerializeToString(),
    "outputs": INFER(outputs=[{}] * (wire.MAX_FIELDS + 1)).SerializeToString(),
    "parameters": many_parameters(),
    "strings below a field": typed(bytes_contents=[b""] * (wire.MAX_FIELDS + 1)).SerializeToString(),
    "integers below a field": typed(int64_contents=[1] * (wire.MAX_PACKED_BYTES + 1)).SerializeToString(),
    "unknown fields": b"\xfa\x3e\x00" * (wire.MAX_FIELDS + 1),
}


@pytest.mark.parametrize("what", LARGE)
def test_a_request_of_too_many_parts_is_refused(what: str) -> None:
    message = read(LARGE[what])
    assert isinstance(message, wire.Unreadable)
    assert message.error.code is ErrorCode.BAD_INPUT
    assert "raw_input_contents" in message.error.message


def test_a_large_request_of_few_parts_is_read() -> None:
    request = INFER(model_name="m", raw_input_contents=[b"x" * 1_000_000] * 3)
    large = read(request.SerializeToString())
    assert isinstance(large, wire.RawRequest)
    assert large.model_name == "m"
    assert [bytes(one) for one in large.raw_input_contents] == list(request.raw_input_contents)
    texts = pb.EncodeRequest(texts=["word " * 100] * 4096)
    assert read(texts.SerializeToString(), pb.EncodeRequest) == texts
    floats = typed(fp32_contents=[1.0] * 2_000_000)
    assert read(floats.SerializeToString()) == floats


@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff", b"\x0a\x02\xff\xfe", b"\xff" * 100_000, b"\x0a\xff" * 50_000]
)
def test_bytes_that_are_no_message_are_bad_input(data: bytes) -> None:
    message = read(data)
    assert isinstance(message, wire.Unreadable)
    assert message.error.code is ErrorCode.BAD_INPUT


@given(st.binary(max_size=300))
def test_the_check_of_any_bytes_ends_and_raises_nothing(data: bytes) -> None:
    descriptor: Any = INFER.DESCRIPTOR
    wire.check(data, descriptor)


@pytest.mark.parametrize("shape", [(0,), (3,), (2, 500, 300)])
def test_an_encoding_from_bytes_is_the_message(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    parts = wire.delimited(2, pb.Tensor(shape=shape).SerializeToString(), *wire.packed_floats(2, values))
    assert pb.Encoding.FromString(wire.join(parts)) == pb.Encoding(
        attention=pb.Tensor(shape=shape, values=values.ravel())
    )


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [
        ("bool_contents", 0, 1),
        ("int_contents", -(2**31), 2**31 - 1),
        ("int64_contents", -(2**63), 2**63 - 1),
        ("uint_contents", 0, 2**32 - 1),
        ("uint64_contents", 0, 2**64 - 1),
        ("fp32_contents", -1000, 1000),
        ("fp64_contents", -1000, 1000),
    ],
)
def test_many_typed_contents_are_decoded_from_their_bytes(field: str, low: int, high: int) -> None:
    edges = [low, high, 0, 1, min(high, 127), min(high, 128), min(high, 16384)]
    values = [bool(one) if field == "bool_contents" else one for one in edges * 400]
    contents = typed(**{field: values}).inputs[0].contents
    array = tensors._array_of(contents, field, getattr(contents, field))
    assert array.tolist() == values


@pytest.mark.parametrize("cut", [1, 70_000, 100_003])
def test_a_large_request_that_ends_early_is_bad_input(cut: int) -> None:
    data = INFER(model_name="m", raw_input_contents=[b"x" * 100_000]).SerializeToString()
    whole = data + b"\x3a\xff\xff\x7f" + b"y" * cut  # raw contents that are longer than the message
    assert isinstance(read(whole), wire.Unreadable)


def test_a_large_request_of_any_datatype_is_decoded_from_views() -> None:
    words = [f"word {number}".encode() for number in range(9000)]
    raw = b"".join(len(word).to_bytes(4, "little") + word for word in words)
    request = read(INFER(raw_input_contents=[raw]).SerializeToString())
    assert tensors._unpack("x", request.raw_input_contents[0]) == words
