"""Exports sequence models from PyTorch to ONNX and compares the results of both before publishing.

module, example, options → parse_spec → checks → tracing → onnx → proof → manifest → publication

`export_oneshot` and `export_stepwise` export any module, and the models of lockstep_zoo. The output is the
folder `<name>/{model.toml, *.json, 1/*.onnx}`, the only interface to the server.
"""

from lockstep_export.declaration import State, Whole
from lockstep_export.oneshot import export_oneshot
from lockstep_export.stepwise import export_stepwise
from lockstep_export.tasks import (
    Classify,
    ClassifyTokens,
    Encode,
    Generate,
    Tensors,
    Transcribe,
    Translate,
)

__all__ = [
    "Classify",
    "ClassifyTokens",
    "Encode",
    "Generate",
    "State",
    "Tensors",
    "Transcribe",
    "Translate",
    "Whole",
    "export_oneshot",
    "export_stepwise",
]
