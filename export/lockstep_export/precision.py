"""The same graph with narrower numbers.

fp16           halves throughout, float32 at its ends; recurrent layers keep float32 arithmetic, for which
               ONNX Runtime has kernels everywhere, with weights that are halves
int8           weights of 8 bits with a scale for each of their rows, made float32 again when the graph is
               loaded: a quarter of the bytes, the same arithmetic, and rows as independent as before
int8-dynamic   products of 8 bits, values scaled at each run: one scale for all rows of a run, so that a
               row's answer depends on its company, and a run must hold one row. The weights have 7 bits:
               without VNNI, x86 adds products of 8 by 8 bits in 16, which overflow to other answers
"""

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lockstep_export.errors import ModuleError
from lockstep_export.onnx import store_halves

Kind = Literal["fp16", "int8", "int8-dynamic"]
KINDS: tuple[Kind, ...] = get_args(Kind)

LARGEST_HALF = 65504
INFINITE = 1e9  # from here on, a mask means minus infinity, and is cut to what fits
SMALLEST = 1024  # elements of a weight that is made narrower
RECURRENT = ("LSTM", "GRU", "RNN")

Array = np.ndarray[Any, Any]


def narrowed(model: Any, kind: Kind) -> Any:
    """`model` in another precision; it is taken apart.

    Raises:
        ModuleError: a graph that ONNX Runtime's converters cannot follow.
    """
    widen(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numbers that are cut to what fits
            result = {"fp16": _halved, "int8": _packed, "int8-dynamic": _dynamic}[kind](model)
    except ModuleError:
        raise
    except Exception as error:  # what a converter raises has no one type
        why = " ".join(str(error).split())[:200]
        raise ModuleError(f"ONNX Runtime's converter cannot make {kind} of the graph: {why}") from error
    store_halves(result)
    return result


def widen(model: Any) -> None:
    """Constants that are stored as halves, with a Cast behind them, become float32 again."""
    constants = {one.name: one for one in model.graph.initializer}
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
    for one in model.graph.initializer:
        values = numpy_helper.to_array(one)
        sizes = np.abs(values) if values.dtype == np.float32 else np.zeros(1)
        if ((sizes > LARGEST_HALF) & (sizes < INFINITE)).any():
            raise ModuleError(f"{one.name!r} has values above {LARGEST_HALF:,}, which a half cannot hold")
        if one.name in kept:
            one.CopyFrom(numpy_helper.from_array(values.astype(np.float16).astype(np.float32), one.name))
    # What a recurrent layer gives, transposed in halves: ONNX Runtime 1.31 dies of it on a CPU, in loading.
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
    """A cast that two states ask for is written twice, under one name."""
    seen, kept = set(), []
    for node in model.graph.node:
        if node.output[0] not in seen:
            kept.append(node)
        seen.update(node.output)
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _constant_nodes(model: Any) -> list[str]:
    """The nodes that ONNX Runtime computes when it loads the graph: on a CPU it fails on some in halves."""
    known, found = {one.name for one in model.graph.initializer} | {""}, []
    for index, node in enumerate(model.graph.node):
        if node.op_type != "Constant" and known.issuperset(node.input):
            node.name = node.name or f"constant_{index}"
            found.append(node.name)
        if node.op_type == "Constant" or known.issuperset(node.input):
            known.update(node.output)
    return found


def _packed(model: Any) -> Any:
    unpacking = []
    for one in list(model.graph.initializer):
        values = numpy_helper.to_array(one)
        if values.dtype != np.float32 or values.ndim < 2 or values.size < SMALLEST:
            continue
        if not np.isfinite(values).all():  # a mask: no scale holds it
            continue
        whole, scale = quantized(values)
        name = one.name
        one.CopyFrom(numpy_helper.from_array(whole, name + ".int8"))
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
    """Whole numbers of 8 bits and the scales that they are to be multiplied by: along the axis that loses
    least, one scale for each of its rows."""
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
    constant += [f"{name}_MatMul" for name in constant]  # what it makes of a Gemm
    logs = logging.getLogger()
    level = logs.level
    logs.setLevel(logging.ERROR)  # it advises on preparations that change nothing here
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
