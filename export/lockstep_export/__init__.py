"""Exports sequence models from PyTorch to ONNX and compares the results of both before publishing.

module, example, options → parse_spec → checks → tracing → onnx → proof → manifest → publication

`export_oneshot` and `export_stepwise` export any module, and the models of lockstep_zoo. The output is the
folder `<name>/{model.toml, *.json, 1/*.onnx}`, the only interface to the server.

Names are imported on first use, so that the command can handle Ctrl-C before PyTorch is imported.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as in `typing`
if TYPE_CHECKING:
    from typing import Any

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


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in ("tasks", "declaration", "oneshot", "stepwise"):
            found = getattr(import_module(f"lockstep_export.{module}"), name, None)
            if found is not None:
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
