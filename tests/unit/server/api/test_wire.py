"""Requests are bounded by their bytes, and replies and typed contents are built from bytes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.server import sample_models

from lockstep_proto import open_inference_pb2
from lockstep_proto.v1 import sequences_pb2 as pb
from lockstep_server.api import tensors, wire
from lockstep_server.errors import ErrorCode
from lockstep_server.frontend import loop_watch

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
async def test_an_encoding_from_bytes_is_the_message(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    parts = wire.delimited(2, pb.Tensor(shape=shape).SerializeToString(), *wire.packed_floats(2, values))
    assert pb.Encoding.FromString(await wire.join(parts)) == pb.Encoding(
        attention=pb.Tensor(shape=shape, values=values.ravel())
    )


@pytest.mark.parametrize(
    ("field", "datatype", "low", "high"),
    [
        ("bool_contents", "BOOL", 0, 1),
        ("int_contents", "INT32", -(2**31), 2**31 - 1),
        ("int64_contents", "INT64", -(2**63), 2**63 - 1),
        ("uint_contents", "UINT32", 0, 2**32 - 1),
        ("uint64_contents", "UINT64", 0, 2**64 - 1),
        ("fp32_contents", "FP32", -1000, 1000),
        ("fp64_contents", "FP64", -1000, 1000),
    ],
)
def test_many_typed_contents_are_decoded_from_their_bytes(
    field: str, datatype: str, low: int, high: int
) -> None:
    edges = [low, high, 0, 1, min(high, 127), min(high, 128), min(high, 16384)]
    values = [bool(one) if field == "bool_contents" else one for one in edges * 10_000]
    request = typed(**{field: values})
    request.inputs[0].datatype = datatype
    request.inputs[0].shape.append(len(values))
    large = read(request.SerializeToString())
    assert isinstance(large, wire.RawRequest)
    assert not getattr(large.inputs[0].contents, field)  # the parser made no number of each
    known = replace(sample_models.plain().inputs[0], datatype=datatype, shape=(len(values),))
    packed = tensors._typed_bytes(large, 0, known)
    assert tensors._from_typed(known, large.inputs[0], len(values), packed).tolist() == values


def test_contents_are_those_of_their_input_however_they_are_encoded() -> None:
    """In several pieces, in several inputs, with numbers that are not packed, and cut off."""
    floats, more = np.arange(5000, dtype=np.float32), np.arange(7000, dtype=np.float32)

    def contents(*parts: np.ndarray[Any, Any]) -> bytes:
        return b"".join(b"".join(wire.delimited(6, part.tobytes())) for part in parts)

    def request(*inputs: bytes) -> Any:
        return read(b"".join(b"".join(wire.delimited(5, *wire.delimited(5, one))) for one in inputs))

    def found(message: Any, index: int) -> list[float]:
        known = replace(sample_models.plain().inputs[0], datatype="FP32", shape=("n",))
        packed = tensors._typed_bytes(message, index, known) if isinstance(message, wire.RawRequest) else None
        count = len(message.inputs[index].contents.fp32_contents) if packed is None else len(packed) // 4
        array = tensors._from_typed(known, message.inputs[index], count, packed)
        return array.tolist()

    whole = request(contents(floats, more), contents(more), b"")
    assert found(whole, 0) == [*floats, *more]
    assert found(whole, 1) == more.tolist()
    assert found(whole, 2) == []
    unpacked = b"".join(b"\x35" + one.tobytes() for one in floats[:3])
    assert found(request(contents(floats) + unpacked, contents(more)), 0) == [*floats, *floats[:3]]
    assert isinstance(request(contents(floats)[:-1] + b"\x00" * 3, contents(more)), wire.Unreadable)


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


async def test_a_large_reply_is_copied_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other work of the event loop runs between any two of its pieces."""
    turns = 0

    async def other_work() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(loop_watch, "_TURN_S", 0.0)
    rng = np.random.default_rng(0)
    sizes = (5, 3 << 20, 0, 2_500_000)
    parts: list[Any] = [memoryview(rng.integers(0, 256, size, np.uint8)) for size in sizes]  # type: ignore[arg-type]
    other = asyncio.create_task(other_work())
    whole = await wire.join([b"head", *parts, b"tail"])
    other.cancel()
    assert whole == b"head" + b"".join(parts) + b"tail"
    assert turns >= 6  # one for each megabyte
