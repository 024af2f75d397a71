"""A model's card: its graph's tensors joined with what the manifest says of them.

Plain data. It is all that the gRPC side knows of a model, and all that padding and planning need.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import LoadError
from . import datatypes
from .manifest import Manifest, State
from .manifest import Tensor as Words

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
class Graph:
    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]


@dataclass(frozen=True)
class TensorCard:
    """One input or output: `words` is the manifest's part, empty without a manifest."""

    name: str
    datatype: str
    shape: tuple[Axis, ...]
    optional: bool
    words: Words

    @property
    def any_rank(self) -> bool:
        """ONNX Runtime tells of a scalar and of a tensor of unknown rank alike."""
        return not self.shape

    def wire_shape(self) -> list[int]:
        """Sizes as the protocol writes them: -1 where any will do."""
        return [axis if isinstance(axis, int) else -1 for axis in self.shape]


@dataclass(frozen=True)
class StateCard:
    """A tensor carried from step to step: `words` pairs the graph's tensors by name."""

    datatype: str
    shape: tuple[Axis, ...]
    words: State

    @property
    def named(self) -> tuple[int, str] | None:
        """The axis that varies and the length that it varies with."""
        return next(iter(self.words.lengths.items()), None)


@dataclass(frozen=True)
class Card:
    """What one face of a model version takes and gives."""

    name: str
    version: int
    manifest: Manifest
    inputs: tuple[TensorCard, ...]
    outputs: tuple[TensorCard, ...]
    batched: bool = False  # requests may share runs: a batch axis everywhere, and the self-test held
    deterministic: bool = False  # and held bit for bit
    notice: str = ""  # what callers should know of how it is served
    platform: str = "onnxruntime_onnx"
    provider: str = "CPUExecutionProvider"
    versions: tuple[int, ...] = ()
    instances: int = 1  # runs at one time
    face: str = "oneshot"
    model: str = ""  # whose face it is; `name` has a suffix where the model has two
    states: tuple[StateCard, ...] = ()
    pads_freely: bool = False  # however far a memory is padded, the bits are the same
    prefill: Card | None = None

    def input(self, name: str) -> TensorCard | None:
        return next((tensor for tensor in self.inputs if tensor.name == name), None)

    @property
    def length_names(self) -> tuple[str, ...]:
        return tuple(self.manifest.lengths)

    def output(self, name: str) -> TensorCard | None:
        return next((tensor for tensor in self.outputs if tensor.name == name), None)

    @property
    def steps(self) -> bool:
        return self.face == "stepwise"

    @property
    def batch_first(self) -> bool:
        """Every tensor has its batch axis in front, as Triton's max_batch_size above 0 says."""
        tensors = (*self.inputs, *self.outputs)
        return self.batched and all(tensor.words.batch_axis == 0 for tensor in tensors)

    @property
    def text_input(self) -> str:
        """The input that takes token ids: the role, else the only one that is not generated."""
        if self.input(self.manifest.roles.input):
            return self.manifest.roles.input
        given = [tensor.name for tensor in self.inputs if not (tensor.words.generated or tensor.optional)]
        return given[0] if len(given) == 1 else ""


def make_card(name: str, version: int, graph: Graph, manifest: Manifest, file: str) -> Card:
    """Join graph and manifest. `file` is named in errors.

    Raises:
        LoadError: a type that the protocol cannot carry, or a manifest that does not fit the graph.
    """
    inputs = tuple(checked_tensor(t, manifest.inputs, f"{file}: inputs") for t in graph.inputs)
    outputs = tuple(checked_tensor(t, manifest.outputs, f"{file}: outputs") for t in graph.outputs)
    no_strangers(manifest.inputs, graph.inputs, f"{file}: inputs")
    no_strangers(manifest.outputs, graph.outputs, f"{file}: outputs")
    if not manifest.written:
        inputs, outputs = guess_batch_axis(inputs, outputs)
    card = Card(name, version, manifest, inputs, outputs, model=name)
    _check_roles(card, file)
    return card


def batchable(card: Card) -> bool:
    """Every tensor has a batch axis: whether rows are independent is the self-test's to say."""
    tensors = (*card.inputs, *card.outputs)
    return bool(card.inputs) and all(tensor.words.batch_axis is not None for tensor in tensors)


def checked_tensor(tensor: GraphTensor, words: Mapping[str, Words], place: str) -> TensorCard:
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
    card = TensorCard(
        tensor.name, datatype, tensor.shape, optional or tensor.optional, words.get(tensor.name, Words())
    )
    _check_axes(card, place)
    return card


def _check_axes(tensor: TensorCard, place: str) -> None:
    words, rank = tensor.words, len(tensor.shape)
    axes = [*words.lengths, *([] if words.batch_axis is None else [words.batch_axis])]
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


def no_strangers(words: Iterable[str], tensors: Sequence[GraphTensor], place: str) -> None:
    names = [tensor.name for tensor in tensors]
    for name in words:
        if name not in names:
            raise LoadError(f"{place}.{name}: the graph has no such tensor; it has {', '.join(names)}")


def _check_roles(card: Card, file: str) -> None:
    roles = card.manifest.roles
    outputs = {tensor.name: tensor for tensor in card.outputs}
    for role in ("scores", "vector", "attention"):
        name = getattr(roles, role)
        if name and name not in outputs:
            raise LoadError(
                f"{file}: roles.{role}: the graph has no output {name!r}; it has {', '.join(outputs)}"
            )
    if roles.input and card.input(roles.input) is None:
        raise LoadError(f"{file}: roles.input: the graph has no input {roles.input!r}")
    if card.manifest.text and not card.text_input:
        raise LoadError(f"{file}: roles.input: is missing; name the input that takes the token ids")
    _check_labels(card, outputs, file)


def _check_labels(card: Card, outputs: Mapping[str, TensorCard], file: str) -> None:
    roles, labels = card.manifest.roles, len(card.manifest.labels)
    if not roles.scores or not labels:
        return
    width = outputs[roles.scores].shape[-1] if outputs[roles.scores].shape else None
    binary = roles.activation == "sigmoid" and width == 1 and labels == 2
    if isinstance(width, int) and width != labels and not binary:
        raise LoadError(
            f"{file}: labels: there are {labels}, but {roles.scores!r} gives {width} scores; make them equal"
        )


def guess_batch_axis(
    inputs: tuple[TensorCard, ...], outputs: tuple[TensorCard, ...]
) -> tuple[tuple[TensorCard, ...], tuple[TensorCard, ...]]:
    """Axis 0 is a batch axis only where it is one and the same symbol on every tensor."""
    fronts = {tensor.shape[0] if tensor.shape else None for tensor in (*inputs, *outputs)}
    if len(fronts) != 1 or not isinstance(next(iter(fronts)), str):
        return inputs, outputs
    first = Words(batch_axis=0)
    return _with_words(inputs, first), _with_words(outputs, first)


def _with_words(tensors: tuple[TensorCard, ...], words: Words) -> tuple[TensorCard, ...]:
    return tuple(TensorCard(t.name, t.datatype, t.shape, t.optional, words) for t in tensors)
