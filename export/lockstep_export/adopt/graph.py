"""The interface of an ONNX file: its inputs, outputs and files, without its weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from lockstep_export.errors import DescriptionError

Axis = int | str | None
"""An axis: its size, its symbol, or None if it is open without a symbol."""

INTEGERS = ("INT64", "INT32")
FLOATS = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")
_BATCH_SYMBOLS = ("batch", "batch_size", "n", "b", "bs", "rows")


@dataclass(frozen=True)
class GraphTensor:
    """An input or an output. `shape` is None if the graph does not say how many axes there are."""

    name: str
    kind: str  # as ONNX names it: FLOAT, INT64, …
    shape: tuple[Axis, ...] | None

    @property
    def rank(self) -> int:
        return len(self.shape or ())

    @property
    def is_scalar(self) -> bool:
        """Whether it is one number: [], [1] or [1, 1]."""
        return self.shape is not None and all(axis == 1 for axis in self.shape)

    def __str__(self) -> str:
        axes = "?" if self.shape is None else ", ".join("?" if a is None else str(a) for a in self.shape)
        return f"{self.name} [{axes}]"


@dataclass(frozen=True)
class Graph:
    """One ONNX file."""

    file: Path
    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    weights: tuple[str, ...]  # files of external data, relative to the graph's folder
    tables: dict[str, int]  # by input: rows of the table that it selects from, such as an embedding

    def input(self, name: str) -> GraphTensor | None:
        return next((tensor for tensor in self.inputs if tensor.name == name), None)

    def output(self, name: str) -> GraphTensor | None:
        return next((tensor for tensor in self.outputs if tensor.name == name), None)

    def require_output(self, name: str) -> GraphTensor:
        """The output of this name, which is known to exist."""
        (found,) = (tensor for tensor in self.outputs if tensor.name == name)
        return found

    def batch_axis(self, tensor: GraphTensor) -> int | None:
        """The axis of the rows: the one with the graph's batch symbol. Without symbols, the first open axis.
        None if the tensor has no open axis."""
        shape = tensor.shape or ()
        if (symbol := self.batch_symbol) is not None:
            return shape.index(symbol) if symbol in shape else None
        open_axes = [index for index, axis in enumerate(shape) if not isinstance(axis, int)]
        return open_axes[0] if open_axes else None

    @property
    def batch_symbol(self) -> str | None:
        """The symbol of the axis of the rows: the one that nearly all inputs and outputs have."""
        counts: dict[str, int] = {}
        varying = 0
        for tensor in (*self.inputs, *self.outputs):
            symbols = {axis for axis in tensor.shape or () if isinstance(axis, str)}
            varying += bool(symbols)
            for symbol in symbols:
                counts[symbol] = counts.get(symbol, 0) + 1
        known = [symbol for symbol in counts if symbol.lower() in _BATCH_SYMBOLS]
        shared = [symbol for symbol, count in counts.items() if count == varying]
        first = {tensor.shape[0] for tensor in self.inputs if tensor.shape}
        for candidates in (known, [symbol for symbol in shared if symbol in first], shared):
            if candidates:
                return max(candidates, key=lambda symbol: counts[symbol])
        return None


def read_graph(file: Path) -> Graph:
    """
    Raises:
        DescriptionError: the file is not an ONNX model, or names weights outside of its folder.
    """
    try:
        model = onnx.load(file, load_external_data=False)
    except Exception as error:  # protobuf raises nothing narrower
        raise DescriptionError(f"{file}: not an ONNX model: {' '.join(str(error).split())[:200]}") from error
    if not model.graph.output:
        raise DescriptionError(f"{file}: not an ONNX model: it has no outputs")
    stored = {tensor.name for tensor in model.graph.initializer}
    return Graph(
        file,
        tuple(_tensor(value) for value in model.graph.input if value.name not in stored),
        tuple(_tensor(value) for value in model.graph.output),
        _weight_files(model, file),
        _tables(model.graph),
    )


def _tensor(value: Any) -> GraphTensor:
    tensor = value.type.tensor_type
    shape = tuple(_axis(axis) for axis in tensor.shape.dim) if tensor.HasField("shape") else None
    return GraphTensor(value.name, onnx.TensorProto.DataType.Name(tensor.elem_type), shape)


def _axis(axis: Any) -> Axis:
    if axis.HasField("dim_value"):
        return int(axis.dim_value)
    return axis.dim_param or None


def _weight_files(model: Any, file: Path) -> tuple[str, ...]:
    found = []
    for tensor in onnx.external_data_helper._get_all_tensors(model):
        if onnx.external_data_helper.uses_external_data(tensor):
            name = onnx.external_data_helper.ExternalDataInfo(tensor).location
            if name not in found:
                found.append(name)
    for name in found:
        path = (file.parent / name).resolve()
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise DescriptionError(
                f"{file}: its weights are in {name!r}, outside of its folder; move them there"
            )
        if not path.is_file():
            raise DescriptionError(f"{file}: the file of its weights, {file.parent / name}, does not exist")
    return tuple(found)


def _tables(graph: Any) -> dict[str, int]:
    """The rows of the tables that inputs select from: `Gather(initializer, input)`, also in branches."""
    rows: dict[str, int] = {}
    same = {value.name: value.name for value in graph.input}

    def walk(part: Any, stored: dict[str, Sequence[int]]) -> None:
        stored = stored | {tensor.name: tuple(tensor.dims) for tensor in part.initializer}
        for node in part.node:
            if node.op_type in ("Cast", "Identity", "Reshape") and node.input[0] in same:
                same[node.output[0]] = same[node.input[0]]
            if node.op_type == "Identity" and node.input[0] in stored:
                stored[node.output[0]] = stored[node.input[0]]
            if node.op_type == "Gather" and node.input[0] in stored and node.input[1] in same:
                name = same[node.input[1]]
                rows[name] = min(rows.get(name, stored[node.input[0]][0]), stored[node.input[0]][0])
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    walk(attribute.g, stored)

    walk(graph, {})
    return rows
