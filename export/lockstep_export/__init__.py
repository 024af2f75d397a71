"""Exports sequence models from PyTorch to ONNX and compares the results of both before publishing.

module, example, options → parse_spec → checks → tracing → onnx → proof → manifest → publication

`export_oneshot` and `export_stepwise` export any module. The models of lockstep_zoo have their own tasks and
comparisons and share the tracers, the ONNX files, parity and the manifest. The output is a folder
`<name>/{model.toml, *.json, 1/*.onnx}`, the only interface to the server.
"""

from lockstep_export.oneshot import export_oneshot
from lockstep_export.stepwise import export_stepwise
from lockstep_export.tasks import Classify, Encode, Generate, Tensors

__all__ = ["Classify", "Encode", "Generate", "Tensors", "export_oneshot", "export_stepwise"]
