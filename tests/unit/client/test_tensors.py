"""Tensors to the wire and back, for every datatype."""

from __future__ import annotations

import struct

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lockstep_client import InvalidRequest, ServerFailure, inference, tensors

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
# Slow machines must not fail the tests.
calmly = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def round_trip(value):
    sent = tensors.encode("x", value)
    return sent.datatype, tensors.decode("x", sent.datatype, sent.shape, sent.raw)


@calmly
@given(st.data(), st.sampled_from(sorted(set(tensors.DTYPES) - {"BF16"})), SHAPES)
def test_fixed_size_types_come_back_bit_for_bit(data, datatype, shape):
    array = data.draw(hnp.arrays(tensors.DTYPES[datatype], shape))
    came_as, back = round_trip(array)
    assert came_as == datatype
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


@calmly
@given(hnp.arrays(np.uint16, SHAPES))
def test_bfloat16_comes_back_bit_for_bit(bits):
    datatype, back = round_trip(bits.view(ml_dtypes.bfloat16))
    assert (datatype, back.shape) == ("BF16", bits.shape)
    assert np.array_equal(back.view(np.uint16), bits)


@calmly
@given(hnp.arrays(object, SHAPES, elements=st.binary(max_size=6) | st.text(max_size=4), fill=st.nothing()))
def test_bytes_and_text_come_back_as_bytes(array):
    datatype, back = round_trip(array)
    assert (datatype, back.shape) == ("BYTES", array.shape)
    assert back.ravel().tolist() == [e.encode() if isinstance(e, str) else e for e in array.ravel()]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("é", [b"\xc3\xa9"]),
        (["a\0", "b"], [b"a\0", b"b"]),
        ([b"\0"], [b"\0"]),
        (np.array(["ab", "c"]), [b"ab", b"c"]),
        (np.array([b"ab", b"c"]), [b"ab", b"c"]),
    ],
)
def test_strings_in_every_form_make_bytes(value, expected):
    assert round_trip(value)[1].ravel().tolist() == expected


def test_bytes_are_a_little_endian_length_and_the_data():
    assert tensors.encode("x", ["abc"]).raw == struct.pack("<I", 3) + b"abc"


@pytest.mark.parametrize("array", [np.arange(6, dtype=">i4").reshape(2, 3), np.arange(12, dtype="<i4")[::2]])
def test_other_byte_orders_and_strides_are_converted(array):
    assert np.array_equal(round_trip(array)[1], array)


def test_decoded_arrays_are_read_only():
    for value in (np.ones(2), np.empty((0, 3)), ["a"]):
        with pytest.raises(ValueError, match="read-only"):
            round_trip(value)[1][...] = value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.ones(2, np.complex64), "complex64 cannot be sent"),
        (np.array(["2024-01-01"], "M8[D]"), "cannot be sent"),
        (np.array([1, "a"], object), "element 0 is int"),
        ([["a"], ["b", "c"]], "not a tensor"),
        (["\ud800"], "not valid Unicode"),
    ],
)
def test_an_unsupported_type_names_the_input(value, message):
    with pytest.raises(InvalidRequest, match=message) as caught:
        tensors.encode("tokens", value)
    assert caught.value.violations[0].field == "inputs['tokens']"


@pytest.mark.parametrize(
    ("datatype", "shape", "raw"),
    [
        ("FP32", (2,), b"\0" * 7),
        ("FP32", (-2,), b"\0" * 8),
        ("FP31", (2,), b"\0" * 8),
        ("BYTES", (1,), b"\x05\0\0\0ab"),
        ("BYTES", (1,), b"\x05\0"),
        ("BYTES", (2,), b"\0\0\0\0"),
        ("BYTES", (), b""),
        ("INT64", (), b""),
    ],
)
def test_truncated_outputs_are_a_server_failure(datatype, shape, raw):
    with pytest.raises(ServerFailure, match="output 'y'"):
        tensors.decode("y", datatype, shape, raw)


@pytest.mark.parametrize(
    ("datatype", "field", "elements"),
    [
        ("BOOL", "bool_contents", [True, False]),
        ("INT8", "int_contents", [-1, 2]),
        ("UINT16", "uint_contents", [1, 65535]),
        ("UINT64", "uint64_contents", [1, 2**64 - 1]),
        ("INT64", "int64_contents", [-(2**63), 1]),
        ("FP32", "fp32_contents", [0.5, -2.0]),
        ("FP64", "fp64_contents", [0.1, -2.0]),
        ("BYTES", "bytes_contents", [b"a", b""]),
    ],
)
def test_typed_contents_of_other_servers_are_read(datatype, field, elements):
    contents = inference.InferTensorContents(**{field: elements})
    assert tensors.decode_typed("y", datatype, (2, 1), contents).ravel().tolist() == elements
    with pytest.raises(ServerFailure, match="do not match"):
        tensors.decode_typed("y", datatype, (3,), contents)


def test_half_floats_have_no_typed_contents():
    with pytest.raises(ServerFailure, match="no raw contents"):
        tensors.decode_typed("y", "FP16", (1,), inference.InferTensorContents())
