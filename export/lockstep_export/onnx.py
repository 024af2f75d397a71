"""Converts modules to ONNX files: traced, stripped, stored compactly without loss.

graph spec → torch's tracer → tracer names and stack traces removed
           → constants that are exactly representable in float16 stored as float16, with a Cast that ONNX
             Runtime folds when it loads the file, so that all computation stays float32
           → weights that several graphs of one model share moved to one file beside them
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lockstep_export.errors import ModuleError
from lockstep_export.graph_spec import GraphSpec
from lockstep_export.sharing import share_weights
from lockstep_export.tracing import Tracer, trace

SMALLEST_HALF = 1024  # elements; below this a Cast costs more bytes than it saves


def export_onnx(
    graph_specs: Sequence[GraphSpec],
    folder: Path,
    tracer: Tracer = "dynamo",
    begin: Callable[[str], None] = lambda _: None,
) -> None:
    """Writes the graphs of one model into `folder`; `begin` is called as each begins."""
    models = {}
    for graph_spec in graph_specs:
        begin(f"tracing {graph_spec.file}")
        models[graph_spec.file] = _model(graph_spec, tracer)
    save(models, folder)


def save(models: Mapping[str, Any], folder: Path) -> None:
    """Writes graphs, by file name; several graphs of one model share their weights."""
    folder.mkdir(parents=True, exist_ok=True)
    if len(models) > 1:
        share_weights(list(models.values()), folder)
    for file, model in models.items():
        onnx.save(model, folder / file)


def _model(graph_spec: GraphSpec, tracer: Tracer) -> Any:
    model = trace(graph_spec, tracer)
    _strip(model)
    store_halves(model)
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ModuleError(f"torch wrote an invalid graph of the module: {error}") from error
    return model


def _strip(model: Any) -> None:
    """Removes the tracer's debug information: stack traces, file names, intermediate shapes."""
    model.producer_name, model.producer_version, model.doc_string = "lockstep-export", "", ""
    for part in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    for part in model.graph.initializer:
        del part.metadata_props[:]
    del model.graph.value_info[:]


def store_halves(model: Any) -> None:
    """Stores large float32 constants that are exactly representable in float16 as float16, with a Cast."""
    casts = []
    for constant in model.graph.initializer:
        values = numpy_helper.to_array(constant)
        if values.dtype != np.float32 or values.size < SMALLEST_HALF or not _survives_half(values):
            continue
        name = constant.name
        constant.CopyFrom(numpy_helper.from_array(values.astype(np.float16), name + ".half"))
        casts.append(
            helper.make_node("Cast", [name + ".half"], [name], name=name + ".float", to=TensorProto.FLOAT)
        )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _survives_half(values: np.ndarray[Any, Any]) -> bool:
    with np.errstate(over="ignore"):
        return bool((values.astype(np.float16).astype(np.float32) == values).all())
