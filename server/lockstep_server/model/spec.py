"""A model's card: its graph's tensors joined with what the manifest says of them.

Plain data. It is all that the gRPC side knows of a model, and all that padding and planning need.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import LoadError
from . import datatypes
from .manifest import Manifest, StateSection, TensorSection

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Axis = int | str | None
"""A fixed size, a symbol, or a size that the graph leaves open without a name."""


@dataclass(frozen=True)
class GraphTensor:
    """A tensor as ONNX Runtime tells of it. `optional`: a run may leave it out."""

    name: str
    onnx_type: str
    shape: tuple[Axis, ...]
    optional: bool = False


@dataclass(frozen=True)
class GraphSignature:
    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]


@dataclass(frozen=True)
class ModelTensor:
    """One input or output: `spec` is the manifest's part, empty without a manifest."""

    name: str
    datatype: str
    shape: tuple[Axis, ...]
    optional: bool
    spec: TensorSection

    @property
    def any_rank(self) -> bool:
        """ONNX Runtime tells of a scalar and of a tensor of unknown rank alike."""
        return not self.shape

    def wire_shape(self) -> list[int]:
        """Sizes as the protocol writes them: -1 where any will do."""
        return [axis if isinstance(axis, int) else -1 for axis in self.shape]


@dataclass(frozen=True)
class StateTensor:
    """A tensor carried from step to step: `spec` pairs the graph's tensors by name."""

    datatype: str
    shape: tuple[Axis, ...]
    spec: StateSection

    @property
    def dynamic_axis(self) -> tuple[int, str] | None:
        """The axis that varies and the length that it varies with."""
        return next(iter(self.spec.lengths.items()), None)


@dataclass(frozen=True)
class ModelSpec:
    """What one face of a model version takes and gives."""

    name: str
    version: int
    manifest: Manifest
    inputs: tuple[ModelTensor, ...]
    outputs: tuple[ModelTensor, ...]
    batched: bool = False  # requests may share runs: a batch axis everywhere, and the self-test held
    deterministic: bool = False  # and held bit for bit
    notice: str = ""  # what callers should know of how it is served
    platform: str = "onnxruntime_onnx"
    provider: str = "CPUExecutionProvider"
    versions: tuple[int, ...] = ()
    instances: int = 1  # runs at one time
    mode: str = "oneshot"
    model: str = ""  # whose face it is; `name` has a suffix where the model has two
    states: tuple[StateTensor, ...] = ()
    padding_invariant: bool = False  # however far a memory is padded, the bits are the same
    prefill: ModelSpec | None = None

    def input(self, name: str) -> ModelTensor | None:
        return next((tensor for tensor in self.inputs if tensor.name == name), None)

    @property
    def length_names(self) -> tuple[str, ...]:
        return tuple(self.manifest.lengths)

    def output(self, name: str) -> ModelTensor | None:
        return next((tensor for tensor in self.outputs if tensor.name == name), None)

    @property
    def is_stepwise(self) -> bool:
        return self.mode == "stepwise"

    @property
    def batch_first(self) -> bool:
        """Every tensor has its batch axis in front, as Triton's max_batch_size above 0 says."""
        tensors = (*self.inputs, *self.outputs)
        return self.batched and all(tensor.spec.batch_axis == 0 for tensor in tensors)

    @property
    def text_input(self) -> str:
        """The input that takes token ids: the role, else the only one that is not generated."""
        if self.input(self.manifest.roles.input):
            return self.manifest.roles.input
        given = [tensor.name for tensor in self.inputs if not (tensor.spec.generated or tensor.optional)]
        return given[0] if len(given) == 1 else ""


def make_spec(name: str, version: int, graph: GraphSignature, manifest: Manifest, file: str) -> ModelSpec:
    """Join graph and manifest. `file` is named in errors.

    Raises:
        LoadError: a type that the protocol cannot carry, or a manifest that does not fit the graph.
    """
    inputs = tuple(bind_tensor(t, manifest.inputs, f"{file}: inputs") for t in graph.inputs)
    outputs = tuple(bind_tensor(t, manifest.outputs, f"{file}: outputs") for t in graph.outputs)
    refuse_unknown_names(manifest.inputs, graph.inputs, f"{file}: inputs")
    refuse_unknown_names(manifest.outputs, graph.outputs, f"{file}: outputs")
    if not manifest.from_file:
        inputs, outputs = infer_batch_axis(inputs, outputs)
    spec = ModelSpec(name, version, manifest, inputs, outputs, model=name)
    _check_roles(spec, file)
    return spec


def batchable(spec: ModelSpec) -> bool:
    """Every tensor has a batch axis: whether rows are independent is the self-test's to say."""
    tensors = (*spec.inputs, *spec.outputs)
    return bool(spec.inputs) and all(tensor.spec.batch_axis is not None for tensor in tensors)


def bind_tensor(tensor: GraphTensor, section: Mapping[str, TensorSection], place: str) -> ModelTensor:
    """A graph's tensor with what the manifest says of it. `place` is named in errors.

    Raises:
        LoadError: its type cannot travel, or an axis is not as the manifest says.
    """
    known = datatypes.from_onnx(tensor.onnx_type)
    if known is None:
        raise LoadError(
            f"{place}.{tensor.name}: {tensor.onnx_type} cannot travel over the Open Inference Protocol;"
            " convert it to a tensor of a plain type inside the graph"
        )
    datatype, optional = known
    spec = ModelTensor(
        tensor.name,
        datatype,
        tensor.shape,
        optional or tensor.optional,
        section.get(tensor.name, TensorSection()),
    )
    _check_axes(spec, place)
    return spec


def _check_axes(tensor: ModelTensor, place: str) -> None:
    section, rank = tensor.spec, len(tensor.shape)
    axes = [*section.lengths, *([] if section.batch_axis is None else [section.batch_axis])]
    for axis in axes:
        if axis >= rank:
            raise LoadError(
                f"{place}.{tensor.name}: axis {axis} is not there; the graph gives it {rank} axes"
            )
        if isinstance(tensor.shape[axis], int):
            raise LoadError(
                f"{place}.{tensor.name}: axis {axis} is fixed to {tensor.shape[axis]} in the graph;"
                " export it with a dynamic axis, or take it out of the manifest"
            )


def refuse_unknown_names(section: Iterable[str], tensors: Sequence[GraphTensor], place: str) -> None:
    names = [tensor.name for tensor in tensors]
    for name in section:
        if name not in names:
            raise LoadError(f"{place}.{name}: the graph has no such tensor; it has {', '.join(names)}")


def _check_roles(spec: ModelSpec, file: str) -> None:
    roles = spec.manifest.roles
    outputs = {tensor.name: tensor for tensor in spec.outputs}
    for role in ("scores", "vector", "attention"):
        name = getattr(roles, role)
        if name and name not in outputs:
            raise LoadError(
                f"{file}: roles.{role}: the graph has no output {name!r}; it has {', '.join(outputs)}"
            )
    if roles.input and spec.input(roles.input) is None:
        raise LoadError(f"{file}: roles.input: the graph has no input {roles.input!r}")
    if spec.manifest.text and not spec.text_input:
        raise LoadError(f"{file}: roles.input: is missing; name the input that takes the token ids")
    _check_labels(spec, outputs, file)


def _check_labels(spec: ModelSpec, outputs: Mapping[str, ModelTensor], file: str) -> None:
    roles, labels = spec.manifest.roles, len(spec.manifest.labels)
    if not roles.scores or not labels:
        return
    width = outputs[roles.scores].shape[-1] if outputs[roles.scores].shape else None
    binary = roles.activation == "sigmoid" and width == 1 and labels == 2
    if isinstance(width, int) and width != labels and not binary:
        raise LoadError(
            f"{file}: labels: there are {labels}, but {roles.scores!r} gives {width} scores; make them equal"
        )


def infer_batch_axis(
    inputs: tuple[ModelTensor, ...], outputs: tuple[ModelTensor, ...]
) -> tuple[tuple[ModelTensor, ...], tuple[ModelTensor, ...]]:
    """Axis 0 is a batch axis only where it is one and the same symbol on every tensor."""
    fronts = {tensor.shape[0] if tensor.shape else None for tensor in (*inputs, *outputs)}
    if len(fronts) != 1 or not isinstance(next(iter(fronts)), str):
        return inputs, outputs
    first = TensorSection(batch_axis=0)
    return _with_section(inputs, first), _with_section(outputs, first)


def _with_section(tensors: tuple[ModelTensor, ...], section: TensorSection) -> tuple[ModelTensor, ...]:
    return tuple(ModelTensor(t.name, t.datatype, t.shape, t.optional, section) for t in tensors)
