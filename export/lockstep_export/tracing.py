"""Runs one of torch's two tracers and turns its errors into errors about the module.

    dynamo   torch.export: tracks every size, so that it can name an axis which the module's code fixes. It
             freezes nn.RNN and stacked layers and fails on packed sequences; give it recurrent_nodes
    script   the older, faster one: follows recurrent layers and most packed sequences, but runs the code once
             and freezes sizes and values that the code converts to Python, at best with a warning. A size
             that it converts is left to the proof, which has many; a value is an error (values_read.py)

Neither is trusted: frozen axes are detected here, and the graph is compared with the module afterwards.
"""

import gc
import io
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Literal

import onnx
import torch
from torch.jit._trace import TracerWarning

from lockstep_export.errors import FrozenError, ModuleError
from lockstep_export.fast_export import fast_export
from lockstep_export.graph_spec import GraphSpec
from lockstep_export.values_read import frozen_values

Tracer = Literal["dynamo", "script"]

OPSET = 20
NO_OPERATOR = re.compile(
    r"No ONNX function found for <OpOverload\(op='([\w.:]+)'|operator '([\w.:]+)' to ONNX"
)
STATIC = re.compile(r"static shape of (\d+) for dimension inputs\['(\w+)'\](?:\[(\d+)\])?\.shape\[(\d+)\]")
TORCH = str(Path(torch.__file__).parent)
COLOURS = re.compile(r"\x1b\[\d*m")


def trace(graph_spec: GraphSpec, tracer: Tracer) -> Any:
    """The graph of `graph_spec` as an ONNX model, with the axes that vary.

    Raises:
        FrozenError: an axis that should vary is fixed in the graph.
        ModuleError: ONNX lacks an operator, or the tracer cannot follow the code.
    """
    with _quiet(), _no_garbage_collection():
        try:
            model = (_dynamo if tracer == "dynamo" else _script)(graph_spec)
        except FrozenError:
            raise
        except Exception as error:  # tracers raise various types
            raise _translate_error(error, graph_spec) from error
    _check_axes(model, graph_spec)
    return model


def _dynamo(graph_spec: GraphSpec) -> Any:
    axes = {
        name: {index: axis for index, axis in enumerate(graph_spec.axes[name]) if axis}
        for name in graph_spec.inputs
    }
    with fast_export():
        program = torch.onnx.export(
            graph_spec.module.eval(),
            tuple(graph_spec.inputs.values()) if graph_spec.positional else (),
            kwargs=None if graph_spec.positional else graph_spec.inputs,
            input_names=list(graph_spec.inputs),
            output_names=list(graph_spec.outputs),
            dynamic_shapes=(tuple(axes.values()),) if graph_spec.positional else axes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def _script(graph_spec: GraphSpec) -> Any:
    named = {**graph_spec.axes, **graph_spec.output_axes}
    dynamic = {name: {i: axis for i, axis in enumerate(axes) if axis} for name, axes in named.items()}
    file: Any = io.BytesIO()  # accepted, although the annotation does not include it
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        torch.onnx.export(
            graph_spec.module.eval(),
            tuple(graph_spec.inputs.values()),
            file,
            input_names=list(graph_spec.inputs),
            output_names=list(graph_spec.outputs),
            dynamic_axes=dynamic,
            opset_version=OPSET,
            dynamo=False,
            verbose=False,
        )
    warned = [warning for warning in recorded if _is_from_module(warning)]
    for where, why in frozen_values(warned, graph_spec):
        raise FrozenError(f"{where}: {why}")
    return onnx.load_from_string(file.getvalue())


def _is_from_module(warning: warnings.WarningMessage) -> bool:
    """Whether the module's code, not torch's, converts a tensor to a Python value."""
    return issubclass(warning.category, TracerWarning) and TORCH not in warning.filename


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the tracers: they print and warn about their own internals and optional packages, partly from
    native code. Whatever concerns the caller is in the exception."""
    logs = [logging.getLogger(name) for name in ("torch", "torch.onnx", "torch.fx", "onnxscript")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    null, kept = os.open(os.devnull, os.O_WRONLY), [(stream, os.dup(stream)) for stream in (1, 2)]
    sys.stdout.flush()
    for stream, _ in kept:
        os.dup2(null, stream)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for stream, copy in kept:
            os.dup2(copy, stream)
            os.close(copy)
        os.close(null)
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Tracing makes many objects that stay until its end. Visiting them takes a seventh of its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _check_axes(model: Any, graph_spec: GraphSpec) -> None:
    tensors = {
        value.name: value.type.tensor_type.shape.dim for value in (*model.graph.input, *model.graph.output)
    }
    for name, axes in {**graph_spec.axes, **graph_spec.output_axes}.items():
        if name not in tensors:
            raise ModuleError(f"{name!r} is not in the graph: the module does not use it; remove the input")
        for index, axis in enumerate(axes):
            if axis and not tensors[name][index].dim_param and tensors[name][index].dim_value:
                raise frozen(axis, name, tensors[name][index].dim_value)


def frozen(axis: str, tensor: str, size: int) -> FrozenError:
    """The error for an axis that should vary but is constant."""
    return FrozenError(
        f"the axis {axis!r} of {tensor!r} is frozen at {size} in the graph: the module's code converts it to"
        " a Python number (a loop over its elements, len(x), int(x.shape[...]), a reshape to a constant, a"
        " layer of fixed input size). Use tensor operations: nn.GRU instead of a loop over nn.GRUCell,"
        " x.shape[1] or -1 directly in reshapes, pooling instead of flattened input"
    )


def _translate_error(error: Exception, graph_spec: GraphSpec) -> ModuleError:
    text = COLOURS.sub("", str(error))
    if found := STATIC.search(text):
        size, name, index, axis = found.groups()
        tensor = list(graph_spec.inputs)[int(index)] if index else name
        return frozen(graph_spec.axes[tensor][int(axis)], tensor, int(size))
    if found := NO_OPERATOR.search(text):
        return missing_operator(found.group(1) or found.group(2))
    if "data-dependent" in text:
        return FrozenError(
            "the module's code branches on the values of a tensor (an `if`, a loop, .item()), and the graph"
            " would keep the branch taken for the example; use torch.where, or masks. torch reports:"
            f" {_last_cause(text)}"
        )
    return ModuleError(f"torch cannot trace the module: {_last_cause(text)}")


def missing_operator(name: str) -> ModuleError:
    """The error for an operation that the server cannot run."""
    return ModuleError(
        f"ONNX Runtime has no operator for {name}: write that part of the module with other operations, or"
        " compute it before the model and pass the result as an input"
    )


def _last_cause(text: str) -> str:
    """The line with the innermost cause; dynamo wraps it in advice about torch itself."""
    causes = re.findall(r"<class '[\w.]+'>: (.+)", text)
    return (causes[0] if causes else text.strip().split("\n")[0] or "no reason given")[:300]
