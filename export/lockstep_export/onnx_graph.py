"""Runs an exported file as the server does: ONNX Runtime on one CPU thread, without spinning."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime import InferenceSession, SessionOptions
from torch import Tensor

from lockstep_export.errors import NotTrainedError

Arrays = dict[str, np.ndarray[Any, Any]]
LOG_ERRORS = 3


class OnnxGraph:
    """A loaded ONNX file."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise NotTrainedError(f"no exported model at {path}: run `lockstep-export export NAME`")
        options = SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = LOG_ERRORS
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.outputs = [output.name for output in self.session.get_outputs()]

    def run(self, inputs: Mapping[str, Tensor]) -> Arrays:
        """Runs the graph; all outputs by name."""
        values = self.session.run(self.outputs, {name: tensor.numpy() for name, tensor in inputs.items()})
        return dict(zip(self.outputs, values, strict=True))

    def width(self, name: str) -> int:
        """The size of the last axis of an input."""
        shapes = {tensor.name: tensor.shape for tensor in self.session.get_inputs()}
        return int(shapes[name][-1])
