"""What callers are told of a failed run: nothing that ONNX Runtime wrote."""

from __future__ import annotations

import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument

from lockstep_server.engine.runtime.graph_errors import run_fault
from lockstep_server.errors import overloaded

NODE = "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Reshape node. Name:'a'"
OUT_OF_RANGE = "indices element out of data bounds, idx=9 must be within the inclusive range [-8,7]"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            Fail(f"{NODE} Message: /onnxruntime_src/core/reshape.cc:40"),
            "ONNX Runtime fails in a Reshape node",
        ),
        (
            InvalidArgument(f"{NODE} Message: {OUT_OF_RANGE}"),
            "an index is out of range: the model's table ends at 7",
        ),
        (Fail("/onnxruntime_src/core/session.cc:1 unknown"), "ONNX Runtime fails"),
        (overloaded("wait", 1.0), "wait"),
        (ValueError("first\nsecond"), "first"),
        (ValueError(), "ValueError"),
    ],
)
def test_a_fault_is_told_without_the_text_of_the_runtime(error: Exception, expected: str) -> None:
    assert run_fault(error) == expected
