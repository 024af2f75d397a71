"""Exports sequence models from PyTorch to ONNX with proven parity: the zoo's, and anybody's own.

The path of a model of the zoo: data → tokenizers → lesson → train → onnx → parity → manifest. What a task
does its own way lies in its folder (`classify`, `generate`, `translate`), behind the verbs of `trade`; the
rest is the same for all. A module of one's own comes in by `export_oneshot` or `export_stepwise` (`own`) and
goes through the same tracers, parity and manifest. What comes out is a folder
`<name>/{model.toml, *.json, 1/*.onnx}` that the server loads; the two sides share nothing else.
"""

from lockstep_export.oneshot import export_oneshot
from lockstep_export.stepwise import export_stepwise
from lockstep_export.tasks import Classify, Encode, Generate, Tensors

__all__ = ["Classify", "Encode", "Generate", "Tensors", "export_oneshot", "export_stepwise"]
