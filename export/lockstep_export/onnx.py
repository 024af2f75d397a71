"""A trained module to an ONNX file: traced, stripped, and stored in as few bytes as lose nothing.

module → ONNX twins of its recurrent layers → torch.onnx.export → names and traces of the tracer off
       → constants whose values are all float16 numbers kept as float16, with a Cast that ONNX Runtime
         folds when it loads the file, so computing stays float32 throughout
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from lockstep_export.batches import inputs_for
from lockstep_export.recurrent import with_onnx_recurrence
from lockstep_export.zoo.recipe import Recipe

OPSET = 20
SMALLEST_HALF = 1024  # elements; below this a Cast costs more bytes than it saves
EXAMPLE = [[3, 4, 5, 6, 7], [8, 9, 10], [11, 12, 13, 14]]  # any ids will do: both axes are dynamic


def export_onnx(recipe: Recipe, module: nn.Module, path: Path) -> None:
    """Writes `module` to `path`: tokens [batch, words] and the recipe's companion in, its outputs out."""
    model = _trace(recipe, with_onnx_recurrence(module))
    _strip(model)
    _store_halves(model)
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def _trace(recipe: Recipe, module: nn.Module) -> Any:
    inputs = inputs_for(recipe, EXAMPLE)
    axes = {name: dict(enumerate(("batch", "words")[: tensor.dim()])) for name, tensor in inputs.items()}
    with _quiet_tracer():
        program = torch.onnx.export(
            module,
            (),
            kwargs=inputs,
            input_names=list(inputs),
            output_names=[output.name for output in recipe.outputs],
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
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
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
