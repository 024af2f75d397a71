"""A trained module to ONNX files: traced, stripped, and stored in as few bytes as lose nothing.

sketch → torch.onnx.export → names and traces of the tracer off
       → constants whose values are all float16 numbers kept as float16, with a Cast that ONNX Runtime
         folds when it loads the file, so computing stays float32 throughout
       → where a model has several graphs, what they hold in common moved to one file beside them
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from lockstep_export.sharing import share_weights
from lockstep_export.trade import Sketch

OPSET = 20
SMALLEST_HALF = 1024  # elements; below this a Cast costs more bytes than it saves


def export_onnx(sketches: Sequence[Sketch], folder: Path) -> None:
    """Writes the graphs of one model into `folder`."""
    models = {sketch.file: _model(sketch) for sketch in sketches}
    folder.mkdir(parents=True, exist_ok=True)
    if len(models) > 1:
        share_weights(list(models.values()), folder)
    for file, model in models.items():
        onnx.save(model, folder / file)


def _model(sketch: Sketch) -> Any:
    model = _trace(sketch)
    _strip(model)
    _store_halves(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def _trace(sketch: Sketch) -> Any:
    axes = {
        name: {index: axis for index, axis in enumerate(sketch.axes[name]) if axis} for name in sketch.inputs
    }
    with _quiet_tracer():
        program = torch.onnx.export(
            sketch.module.eval(),
            (),
            kwargs=sketch.inputs,
            input_names=list(sketch.inputs),
            output_names=list(sketch.outputs),
            dynamic_shapes=axes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


@contextmanager
def _quiet_tracer() -> Iterator[None]:
    """The tracer warns of its own internals and of optional packages; neither is the caller's trouble."""
    logs = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def _strip(model: Any) -> None:
    """Takes off what the tracer notes for debugging: stack traces, file names, intermediate shapes."""
    model.producer_name, model.producer_version, model.doc_string = "lockstep-export", "", ""
    for part in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    for part in model.graph.initializer:
        del part.metadata_props[:]
    del model.graph.value_info[:]


def _store_halves(model: Any) -> None:
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
