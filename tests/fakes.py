"""Tiny ONNX models, model repositories and requests for tests."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from lockstep_proto import open_inference_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from onnx import ModelProto, NodeProto, ValueInfoProto

    Array = np.ndarray[Any, Any]

ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}
NUMPY = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "FP32": np.float32,
    "FP64": np.float64,
}
TYPED = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


# --- graphs -----------------------------------------------------------------------------------------


def tensor(name: str, datatype: str = "FP32", shape: Sequence[int | str] = ("n", "m")) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, ONNX_TYPES[datatype], list(shape))


def constant(name: str, value: Any, dtype: Any) -> Any:
    return numpy_helper.from_array(np.array(value, dtype), name)


def model(
    nodes: Sequence[NodeProto], inputs: Sequence[Any], outputs: Sequence[Any], constants: Sequence[Any] = ()
) -> ModelProto:
    graph = helper.make_graph(list(nodes), "fake", list(inputs), list(outputs), list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def identity(datatype: str = "FP32", shape: Sequence[int | str] = ("n", "m")) -> ModelProto:
    """y = x; rows are independent."""
    return model(
        [helper.make_node("Identity", ["x"], ["y"])],
        [tensor("x", datatype, shape)],
        [tensor("y", datatype, shape)],
    )


def with_optional() -> ModelProto:
    """y = x + bias; `bias` is optional and 10 by default."""
    return model(
        [helper.make_node("Add", ["x", "bias"], ["y"])],
        [tensor("x", shape=("n",)), tensor("bias", shape=(1,))],
        [tensor("y", shape=("n",))],
        [constant("bias", [10], np.float32)],
    )


def with_rate() -> ModelProto:
    """y = x * rate; `rate` is a scalar integer."""
    return model(
        [
            helper.make_node("Cast", ["rate"], ["factor"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["x", "factor"], ["y"]),
        ],
        [tensor("x", shape=("n", 2)), tensor("rate", "INT64", ())],
        [tensor("y", shape=("n", 2))],
    )


def several_outputs() -> ModelProto:
    """same = x, negative = -x, size = |x|."""
    return model(
        [
            helper.make_node("Identity", ["x"], ["same"]),
            helper.make_node("Neg", ["x"], ["negative"]),
            helper.make_node("Abs", ["x"], ["size"]),
        ],
        [tensor("x")],
        [tensor("same"), tensor("negative"), tensor("size")],
    )


def row_mixer() -> ModelProto:
    """y = x - the mean over all rows, so that a result depends on the other rows of the batch."""
    return model(
        [
            helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
            helper.make_node("Sub", ["x", "mean"], ["y"]),
        ],
        [tensor("x")],
        [tensor("y")],
    )


def row_dropper() -> ModelProto:
    """y = x without the rows that begin with 10 or more."""
    return model(
        [
            helper.make_node("Gather", ["x", "first"], ["head"], axis=1),
            helper.make_node("Less", ["head", "ten"], ["keep"]),
            helper.make_node("Compress", ["x", "keep"], ["y"], axis=0),
        ],
        [tensor("x")],
        [tensor("y")],
        [constant("first", 0, np.int64), constant("ten", 10, np.float32)],
    )


def some_dropper() -> ModelProto:
    """y = x without the rows that begin with 50 or 60, which random values hardly are."""
    return model(
        [
            helper.make_node("Gather", ["x", "first"], ["head"], axis=1),
            helper.make_node("Equal", ["head", "fifty"], ["is_50"]),
            helper.make_node("Equal", ["head", "sixty"], ["is_60"]),
            helper.make_node("Or", ["is_50", "is_60"], ["dropped"]),
            helper.make_node("Not", ["dropped"], ["keep"]),
            helper.make_node("Compress", ["x", "keep"], ["y"], axis=0),
        ],
        [tensor("x")],
        [tensor("y")],
        [
            constant("first", 0, np.int64),
            constant("fifty", 50, np.float32),
            constant("sixty", 60, np.float32),
        ],
    )


def sometimes_contagious(step: bool = False) -> ModelProto:
    """y = x, but x + 1 for all rows of a run in which a value is 50, which random values hardly are.

    Args:
        step: the same as a step, with a state: y = sum_out = x + sum_in.
    """
    given = "x" if not step else "sum"
    nodes = [
        helper.make_node("Equal", ["x", "fifty"], ["is_50"]),
        helper.make_node("Cast", ["is_50"], ["one"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["one"], ["any"], keepdims=0),
        helper.make_node("Add", [given, "any"], ["y"]),
    ]
    inputs, outputs = [tensor("x", shape=("n", 2))], [tensor("y", shape=("n", 2))]
    if step:
        nodes = [
            helper.make_node("Add", ["x", "sum_in"], ["sum"]),
            helper.make_node("Identity", ["sum"], ["sum_out"]),
            *nodes,
        ]
        inputs.append(tensor("sum_in", shape=("n", 2)))
        outputs.append(tensor("sum_out", shape=("n", 2)))
    return model(nodes, inputs, outputs, [constant("fifty", 50, np.float32)])


def time_major() -> ModelProto:
    """y = the running sum of x along axis 0, which is time but looks like a batch axis."""
    return model(
        [helper.make_node("CumSum", ["x", "axis"], ["y"])],
        [tensor("x", shape=("time", "batch"))],
        [tensor("y", shape=("time", "batch"))],
        [constant("axis", 0, np.int64)],
    )


def mean_over_padding() -> ModelProto:
    """y = the mean of each row, including padding."""
    return model(
        [helper.make_node("ReduceMean", ["x"], ["y"], axes=[1], keepdims=0)],
        [tensor("x", shape=("batch", "words"))],
        [tensor("y", shape=("batch",))],
    )


MEAN_MANIFEST = """
[lengths.words]
max = 64
[inputs.x]
batch_axis = 0
lengths = {1 = "words"}
[outputs.y]
batch_axis = 0
"""


def masked_mean() -> ModelProto:
    """y = the mean of each row where the mask is 1."""
    return model(
        [
            helper.make_node("Mul", ["x", "mask"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "axis"], ["total"], keepdims=0),
            helper.make_node("ReduceSum", ["mask", "axis"], ["count"], keepdims=0),
            helper.make_node("Div", ["total", "count"], ["y"]),
        ],
        [tensor("x", shape=("batch", "words")), tensor("mask", shape=("batch", "words"))],
        [tensor("y", shape=("batch",))],
        [constant("axis", [1], np.int64)],
    )


MASKED_MANIFEST = (
    MEAN_MANIFEST
    + """
[inputs.mask]
batch_axis = 0
lengths = {1 = "words"}
generated = "mask"
of = "words"
"""
)


def fragile() -> ModelProto:
    """y = 10 · id for ids below 8; a run with a larger id fails."""
    return model(
        [helper.make_node("Gather", ["table", "x"], ["y"], axis=0)],
        [tensor("x", "INT64", ("n",))],
        [tensor("y", shape=("n",))],
        [constant("table", 10 * np.arange(8), np.float32)],
    )


def breaks_on_zero() -> ModelProto:
    """y = x [n, 2] reshaped to a width of its largest value: fails if the values do not fit that shape."""
    return model(
        [
            helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
            helper.make_node("Cast", ["most"], ["width"], to=TensorProto.INT64),
            helper.make_node("Unsqueeze", ["width", "first"], ["shape_tail"]),
            helper.make_node("Concat", ["minus_one", "shape_tail"], ["shape"], axis=0),
            helper.make_node("Reshape", ["x", "shape"], ["y"]),
        ],
        [tensor("x", shape=("n", 2))],
        [tensor("y", shape=("n", 2))],
        [constant("first", [0], np.int64), constant("minus_one", [-1], np.int64)],
    )


def slow() -> ModelProto:
    """y = x after `times` matrix products, so that a test chooses the length of a run."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["go_on_out"]),
            helper.make_node("MatMul", ["state", "turn"], ["state_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            tensor("state", shape=(256, 256)),
        ],
        [
            helper.make_tensor_value_info("go_on_out", TensorProto.BOOL, []),
            tensor("state_out", shape=(256, 256)),
        ],
    )
    return model(
        [
            helper.make_node("Loop", ["times", "", "turn"], ["end"], body=body),
            helper.make_node("ReduceMean", ["end"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
            helper.make_node("Add", ["x", "nothing"], ["y"]),
        ],
        [tensor("x", shape=(1,)), tensor("times", "INT64", ())],
        [tensor("y", shape=(1,))],
        [constant("turn", np.eye(256), np.float32), constant("zero", 0, np.float32)],
    )


def sequence_output() -> ModelProto:
    """y is a sequence of tensors, which the protocol does not support."""
    return model(
        [helper.make_node("SequenceConstruct", ["x"], ["y"])],
        [tensor("x")],
        [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)],
    )


# --- repositories -----------------------------------------------------------------------------------


def write_model(
    root: Path, name: str, graph: ModelProto | bytes, manifest: str = "", version: int = 1
) -> Path:
    """Write `root/name/version/model.onnx`, and `model.toml` if given. Returns the model's folder."""
    folder = root / name
    (folder / str(version)).mkdir(parents=True, exist_ok=True)
    content = graph if isinstance(graph, bytes) else graph.SerializeToString()
    (folder / str(version) / "model.onnx").write_bytes(content)
    if manifest:
        (folder / "model.toml").write_text(manifest, encoding="utf-8")
    return folder


WORDS = ("good", "bad", "film", "very")


def write_tokenizer(file: Path, words: Sequence[str] = WORDS) -> None:
    """Write a tokenizer of whole words; id 0 is padding and 1 unknown words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: index for index, word in enumerate(("[PAD]", "[UNK]", *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(file))


# --- requests ---------------------------------------------------------------------------------------


def raw(array: Array, datatype: str) -> bytes:
    if datatype != "BYTES":
        return np.ascontiguousarray(array).tobytes()
    encoded = [element.encode() if isinstance(element, str) else element for element in array.ravel()]
    return b"".join(struct.pack("<I", len(element)) + element for element in encoded)


def values(reply: pb.ModelInferResponse, name: str) -> Array:
    """The output `name` of a response; BYTES as str."""
    index = [output.name for output in reply.outputs].index(name)
    output, content = reply.outputs[index], reply.raw_output_contents[index]
    if output.datatype != "BYTES":
        return np.frombuffer(content, NUMPY[output.datatype]).reshape(output.shape)
    elements, at = [], 0
    while at < len(content):
        (size,) = struct.unpack_from("<I", content, at)
        elements.append(content[at + 4 : at + 4 + size].decode())
        at += 4 + size
    return np.array(elements, object).reshape(output.shape)


def request(
    name: str,
    inputs: Mapping[str, tuple[str, Any]],
    *,
    version: str = "",
    request_id: str = "",
    outputs: Sequence[str] = (),
    typed: bool = False,
    **parameters: Any,
) -> pb.ModelInferRequest:
    """A ModelInfer request. `inputs` is {name: (datatype, values)}; `typed` sends typed contents."""
    message = pb.ModelInferRequest(model_name=name, model_version=version, id=request_id)
    for key, (datatype, values_) in inputs.items():
        array = np.asarray(values_, object if datatype == "BYTES" else NUMPY[datatype])
        tensor_ = message.inputs.add(name=key, datatype=datatype, shape=array.shape)
        if typed:
            flat = [v.encode() if isinstance(v, str) else v for v in array.ravel().tolist()]
            getattr(tensor_.contents, TYPED[datatype]).extend(flat)
        else:
            message.raw_input_contents.append(raw(array, datatype))
    for output in outputs:
        message.outputs.add(name=output)
    for key, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}[
            type(value)
        ]
        setattr(message.parameters[key], kind, value)
    return message


def floats(name: str, x: Any, **options: Any) -> pb.ModelInferRequest:
    """A ModelInfer request with one FP32 input `x`."""
    return request(name, {"x": ("FP32", x)}, **options)
