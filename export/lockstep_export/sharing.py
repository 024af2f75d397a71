"""Moves the weights that several graphs of one model share into one file beside them.

ONNX calls this external data: a constant names the file, offset and length of its bytes. Equal bytes are
written once, whatever the name and shape of the constants that hold them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import set_external_data

WEIGHTS = "weights.bin"
SMALLEST = 1024  # bytes; smaller constants stay in the graph
ALIGNMENT = 4096  # page size, so that the file can be mapped into memory


def share_weights(models: Sequence[Any], folder: Path) -> None:
    """Moves the large constants of `models` to `folder`/weights.bin."""
    places: dict[bytes, int] = {}
    with (folder / WEIGHTS).open("wb") as file:
        for constant in (constant for model in models for constant in model.graph.initializer):
            raw = numpy_helper.to_array(constant).tobytes()
            if len(raw) < SMALLEST:
                continue
            if raw not in places:
                file.write(bytes(-file.tell() % ALIGNMENT))
                places[raw] = file.tell()
                file.write(raw)
            _point(constant, places[raw], len(raw))


def _point(constant: Any, offset: int, length: int) -> None:
    kept = TensorProto(name=constant.name, data_type=constant.data_type, dims=constant.dims, raw_data=b"-")
    set_external_data(kept, WEIGHTS, offset=offset, length=length)
    kept.ClearField("raw_data")
    constant.CopyFrom(kept)
