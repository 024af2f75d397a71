"""Converts a graph to narrower numbers.

fp16           float16 weights and arithmetic, float32 inputs and outputs; recurrent layers keep float32
               arithmetic, for which ONNX Runtime has kernels everywhere, with weights rounded to float16
int8           8-bit weights with one scale per row of the weight, converted to float32 when the graph is
               loaded: a quarter of the bytes, the same arithmetic, and rows as independent as before
int8-dynamic   8-bit products; activations are scaled at each run with one scale for all rows of the batch, so
               that a row's result depends on the other rows and a batch must hold one row. Weights have 7
               bits: without VNNI, x86 accumulates products of 8 by 8 bits in 16 bits, which can overflow
"""

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lockstep_export.errors import ModuleError
from lockstep_export.manifest import Kind
from lockstep_export.onnx import store_halves

LARGEST_HALF = 65504
INFINITE = 1e9  # from here on, a mask means minus infinity, and is clipped to the float16 range
SMALLEST = 1024  # elements of a weight that is converted
RECURRENT = ("LSTM", "GRU", "RNN")

Array = np.ndarray[Any, Any]


def narrowed(model: Any, kind: Kind) -> Any:
    """`model` in another precision; `model` itself is modified.

    Raises:
        ModuleError: ONNX Runtime's converters cannot handle the graph.
    """
    widen(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about clipped values
            result = {"fp16": _halved, "int8": _packed, "int8-dynamic": _dynamic}[kind](model)
    except ModuleError:
        raise
    except Exception as error:  # converters raise various types
        why = " ".join(str(error).split())[:200]
        raise ModuleError(f"ONNX Runtime's converter cannot convert the graph to {kind}: {why}") from error
    store_halves(result)
    return result


def widen(model: Any) -> None:
    """Converts constants that are stored as float16 with a Cast back to float32."""
    constants = {constant.name: constant for constant in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        half = constants.get(node.input[0]) if node.op_type == "Cast" else None
        if half is None or half.data_type != TensorProto.FLOAT16:
            kept.append(node)
            continue
        values = numpy_helper.to_array(half).astype(np.float32)
        half.CopyFrom(numpy_helper.from_array(values, node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _halved(model: Any) -> Any:
    from onnxruntime.transformers import float16

    kept = {name for node in model.graph.node if node.op_type in RECURRENT for name in node.input[1:4]}
    for constant in model.graph.initializer:
        values = numpy_helper.to_array(constant)
        sizes = np.abs(values) if values.dtype == np.float32 else np.zeros(1)
        if ((sizes > LARGEST_HALF) & (sizes < INFINITE)).any():
            raise ModuleError(
                f"{constant.name!r} has values above {LARGEST_HALF:,}, the largest float16 number"
            )
        if constant.name in kept:
            constant.CopyFrom(
                numpy_helper.from_array(values.astype(np.float16).astype(np.float32), constant.name)
            )
    # ONNX Runtime 1.31 crashes while loading a float16 Transpose after a recurrent layer on a CPU.
    blocked = [*RECURRENT, "Transpose"] if kept else []
    halves = float16.convert_float_to_float16(
        model,
        keep_io_types=True,
        op_block_list=[*float16.DEFAULT_OP_BLOCK_LIST, *blocked],
        node_block_list=_constant_nodes(model),
    )
    _drop_repeated(halves)
    return halves


def _drop_repeated(model: Any) -> None:
    """The converter writes a Cast that two states need twice, under one name."""
    seen, kept = set(), []
    for node in model.graph.node:
        if node.output[0] not in seen:
            kept.append(node)
        seen.update(node.output)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _constant_nodes(model: Any) -> list[str]:
    """The nodes that ONNX Runtime folds when it loads the graph; on a CPU it fails on some in float16."""
    known, found = {constant.name for constant in model.graph.initializer} | {""}, []
    for index, node in enumerate(model.graph.node):
        if node.op_type != "Constant" and known.issuperset(node.input):
            node.name = node.name or f"constant_{index}"
            found.append(node.name)
        if node.op_type == "Constant" or known.issuperset(node.input):
            known.update(node.output)
    return found


def _packed(model: Any) -> Any:
    unpacking = []
    for constant in list(model.graph.initializer):
        values = numpy_helper.to_array(constant)
        if values.dtype != np.float32 or values.ndim < 2 or values.size < SMALLEST:
            continue
        if not np.isfinite(values).all():  # a mask: no scale can represent it
            continue
        whole, scale = quantized(values)
        name = constant.name
        constant.CopyFrom(numpy_helper.from_array(whole, name + ".int8"))
        model.graph.initializer.append(numpy_helper.from_array(scale, name + ".scale"))
        unpacking += [
            helper.make_node("Cast", [name + ".int8"], [name + ".whole"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [name + ".whole", name + ".scale"], [name]),
        ]
    nodes = [*unpacking, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def quantized(values: Array) -> tuple[Array, Array]:
    """8-bit integers and their scales: one scale for each row along the axis that loses least."""
    tries = [_along(values, axis) for axis in range(values.ndim) if values.shape[axis] > 1]
    losses = [float(np.square(whole * scale - values).mean()) for whole, scale in tries]
    return tries[int(np.argmin(losses))]


def _along(values: Array, axis: int) -> tuple[Array, Array]:
    others = tuple(other for other in range(values.ndim) if other != axis)
    largest = np.abs(values).max(axis=others, keepdims=True)
    scale = (np.where(largest > 0, largest, 1) / 127).astype(np.float32)
    return np.rint(values / scale).astype(np.int8), scale


def _dynamic(model: Any) -> Any:
    from onnxruntime import quantization

    constant = _constant_nodes(model)
    constant += [f"{name}_MatMul" for name in constant]  # the converter's name for a Gemm
    logs = logging.getLogger()
    level = logs.level
    logs.setLevel(logging.ERROR)  # it recommends preprocessing that changes nothing here
    try:
        with tempfile.TemporaryDirectory() as folder:
            plain, narrow = Path(folder) / "plain.onnx", Path(folder) / "narrow.onnx"
            onnx.save(model, plain)
            quantization.quantize_dynamic(
                plain,
                narrow,
                weight_type=quantization.QuantType.QInt8,
                reduce_range=True,
                nodes_to_exclude=constant,
                extra_options={"DefaultTensorType": TensorProto.FLOAT},
            )
            return onnx.load(narrow)
    finally:
        logs.setLevel(level)
