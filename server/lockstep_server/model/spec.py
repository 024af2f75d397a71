"""The spec of a model: the tensors of its graph joined with the sections of its manifest.

`GraphSignature` + `Manifest` → `oneshot_spec.py`, `step_spec.py`, `encoders.py` → `ModelSpec`
`ModelSpec` + the tensors of a request → `measure_request` → `RequestSize`

Plain data: all that the front end knows about a model, and all that padding and planning need.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ..errors import ServingError, bad_input
from . import datatypes
from .manifest import CTC_TASK, GENERATIVE_TASKS, TOKEN_TASK, Manifest, StateSection, TensorSection

_MOST_SIZES = 4096
"""Sizes that are remembered of each model: most requests have one of few shapes."""

Axis = int | str | None
"""An axis of a graph's tensor: its fixed size, its symbol, or None if it is dynamic without a symbol."""


@dataclass(frozen=True)
class GraphTensor:
    """A tensor as ONNX Runtime describes it. A run may leave out an `optional` one."""

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
    """One input or output. `spec` is its section of the manifest, empty if it has none."""

    name: str
    datatype: str
    shape: tuple[Axis, ...]
    optional: bool
    spec: TensorSection

    @property
    def any_rank(self) -> bool:
        """The rank is unknown. ONNX Runtime describes scalars in the same way, so they count as unknown."""
        return not self.shape

    @cached_property
    def fixed(self) -> tuple[tuple[int, int], ...]:
        """The axes of fixed size, and their sizes."""
        return tuple((axis, size) for axis, size in enumerate(self.shape) if isinstance(size, int))

    def wire_shape(self) -> list[int]:
        """The shape in the Open Inference Protocol: -1 for a dynamic axis."""
        return [axis if isinstance(axis, int) else -1 for axis in self.shape]


@dataclass(frozen=True)
class StateTensor:
    """A tensor carried from step to step. `spec` names the graph's input and output for it."""

    datatype: str
    shape: tuple[Axis, ...]
    spec: StateSection
    first: np.ndarray[Any, Any] | None = field(default=None, compare=False)  # from a file; one row

    @property
    def dynamic_axis(self) -> tuple[int, str] | None:
        """The dynamic axis and its named length; None if the shape is fixed."""
        return next(iter(self.spec.lengths.items()), None)


@dataclass(frozen=True)
class ModelSpec:
    """One mode of a model version: its inputs, its outputs and how it is served."""

    name: str
    version: int
    manifest: Manifest
    inputs: tuple[ModelTensor, ...]
    outputs: tuple[ModelTensor, ...]
    batched: bool = False  # requests may share a run: the self-test passed
    padded: bool = True  # also requests of different lengths
    unpadded: tuple[str, ...] = ()  # lengths of states that are never padded: equal ones share a step
    deterministic: bool = False  # batched and unbatched answers are bit-identical
    notice: str = ""  # a warning for callers
    platform: str = "onnxruntime_onnx"
    provider: str = "CPUExecutionProvider"
    versions: tuple[int, ...] = ()
    instances: int = 1  # concurrent runs
    mode: str = "oneshot"  # or "stepwise" or "prefill"
    model: str = ""  # name in the repository; `name` adds a suffix to the step-wise mode if there are two
    states: tuple[StateTensor, ...] = ()
    padding_invariant: bool = False  # answers are bit-identical for every padding of the states
    keeps_elements: bool = False  # a step leaves the elements that its caches have as they are
    chunks_padded: bool = False  # steps with chunks of different lengths may share a run
    prefill: ModelSpec | None = None
    encoder: ModelSpec | None = None  # of a prefill graph: the graph that it takes outputs of
    fetched: tuple[str, ...] = ()  # the outputs to compute in a step; empty: all
    files: str = ""  # of a step-wise mode: SHA-256 of the model's files, in hexadecimal

    def input(self, name: str) -> ModelTensor | None:
        return self.inputs_by_name.get(name)

    @cached_property
    def inputs_by_name(self) -> dict[str, ModelTensor]:
        return {tensor.name: tensor for tensor in self.inputs}

    @cached_property
    def required_inputs(self) -> tuple[ModelTensor, ...]:
        """The inputs that each request has."""
        return tuple(one for one in self.inputs if not (one.optional or one.spec.filled))

    @cached_property
    def known_sizes(self) -> dict[tuple[str, tuple[int, ...]], RequestSize]:
        """The sizes of requests that were measured, by the name and shape of their only input."""
        return {}

    @cached_property
    def length_names(self) -> tuple[str, ...]:
        return tuple(self.manifest.lengths)

    def output(self, name: str) -> ModelTensor | None:
        return next((tensor for tensor in self.outputs if tensor.name == name), None)

    @cached_property
    def chunk_lengths(self) -> tuple[str, ...]:
        """The named lengths along which a step takes a chunk of elements: of inputs, and of no state."""
        named = {name for tensor in self.inputs for name in tensor.spec.lengths.values()}
        of_states = {name for state in self.states for name in state.spec.lengths.values()}
        return tuple(name for name in self.manifest.lengths if name in named - of_states)

    @cached_property
    def state_lengths(self) -> tuple[str, ...]:
        """The named lengths of the states, sorted."""
        return tuple(sorted({state.dynamic_axis[1] for state in self.states if state.dynamic_axis}))

    @cached_property
    def growing_lengths(self) -> tuple[str, ...]:
        """The named lengths that grow by one per step, sorted."""
        growing = (state for state in self.states if state.spec.grows)
        return tuple(sorted({state.dynamic_axis[1] for state in growing if state.dynamic_axis}))

    @cached_property
    def changed_states(self) -> tuple[StateSection, ...]:
        """The states that a step returns."""
        return tuple(state.spec for state in self.states if state.spec.output)

    @cached_property
    def state_inputs(self) -> tuple[str, ...]:
        """The inputs of a step that take the states, in the order of `states`."""
        return tuple(state.spec.input for state in self.states)

    @cached_property
    def filled_inputs(self) -> tuple[ModelTensor, ...]:
        """The inputs that the server can fill in."""
        return tuple(one for one in self.inputs if one.spec.generated or one.spec.value is not None)

    @property
    def reader(self) -> ModelSpec:
        """The graph that reads the ids of a prompt or source: encoder, prefill or step graph."""
        first = self.prefill or self
        return first.encoder or first

    @cached_property
    def output_sections(self) -> dict[str, TensorSection]:
        """The manifest's section of each output, by name."""
        return {tensor.name: tensor.spec for tensor in self.outputs}

    @cached_property
    def has_output_lengths(self) -> bool:
        """Whether an axis of an output has a named or computed length."""
        return any(tensor.spec.lengths for tensor in self.outputs)

    @cached_property
    def classifies(self) -> bool:
        """Whether the model has one row of scores, with labels, for a whole text."""
        manifest = self.manifest
        other_scores = manifest.task in (*GENERATIVE_TASKS, TOKEN_TASK, CTC_TASK)
        return bool(manifest.roles.scores and manifest.labels) and not other_scores

    @cached_property
    def classifies_tokens(self) -> bool:
        """Whether the model has a row of scores for each token of a text."""
        return self.manifest.task == TOKEN_TASK

    @cached_property
    def transcribes(self) -> bool:
        """Whether the model has a row of scores for each frame, of which the best ones make a text (CTC)."""
        return self.manifest.task == CTC_TASK

    @cached_property
    def has_single_score(self) -> bool:
        """Whether one score may stand for two labels."""
        return self.manifest.roles.activation == "sigmoid" and len(self.manifest.labels) == 2

    @cached_property
    def is_stepwise(self) -> bool:
        return self.mode == "stepwise"

    def most_rows(self, size: int) -> int:
        """The most rows of `size` elements that a run may have. `max_padded_elements` bounds only runs that
        may be padded: without named lengths, all rows of a run have one shape."""
        limits = self.manifest.batching
        if not self.batched:
            return 1
        if not self.manifest.lengths:
            return limits.max_rows
        return min(limits.max_rows, max(limits.max_padded_elements // max(size, 1), 1))

    @property
    def batch_first(self) -> bool:
        """The batch axis of every tensor is axis 0, as a Triton model with max_batch_size > 0 requires."""
        tensors = (*self.inputs, *self.outputs)
        return self.batched and all(tensor.spec.batch_axis == 0 for tensor in tensors)

    @cached_property
    def reads_text(self) -> bool:
        """Whether the model has a tokenizer."""
        return self.manifest.text is not None and bool(self.manifest.text.source)

    @cached_property
    def text_tensor(self) -> ModelTensor | None:
        """The tensor of `text_input`."""
        return self.input(self.text_input)

    @cached_property
    def text_input(self) -> str:
        """The input that takes token ids: `roles.input`, or the only required input that the server does
        not fill in. Empty if there is no such input or more than one."""
        if self.input(self.manifest.roles.input):
            return self.manifest.roles.input
        required = self.required_inputs
        return required[0].name if len(required) == 1 else ""


def batchable(spec: ModelSpec) -> bool:
    """Every output and some input has a batch axis. The self-test finds out whether the rows are independent.

    Requests share a run only if their inputs without a batch axis, such as a sampling rate, are equal.
    """
    inputs = any(tensor.spec.batch_axis is not None for tensor in spec.inputs)
    return inputs and all(tensor.spec.batch_axis is not None for tensor in spec.outputs)


class RequestSize(NamedTuple):
    """The rows and the named lengths of a request."""

    rows: int
    lengths: tuple[int, ...]  # in the order of `ModelSpec.length_names`
    size: int  # elements per row, which cost and padding depend on

    @property
    def elements(self) -> int:
        return self.rows * self.size


def row_of_ids(tensor: ModelTensor, ids: Sequence[int] | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Token ids as one row of the input `tensor`, whose type holds them."""
    row = np.asarray(ids, datatypes.NUMPY[tensor.datatype])
    if len(tensor.shape) == 1:  # [words]: the model is not batched
        return row
    return row[:, None] if tensor.spec.batch_axis == 1 else row[None]


def text_inputs(spec: ModelSpec, ids: Sequence[int] | np.ndarray[Any, Any]) -> datatypes.Arrays:
    """Token ids as the model's text input, one row."""
    tensor = spec.text_tensor
    assert tensor is not None
    return {tensor.name: row_of_ids(tensor, ids)}


def measure_request(spec: ModelSpec, inputs: datatypes.Arrays) -> RequestSize:
    """Measure a request whose tensors each fit the spec.

    Without named lengths, the size of a row is that of its largest tensor.

    Raises:
        ServingError: BAD_INPUT: tensors disagree on a size, there are no rows, or a length is 0 or
            above its maximum.
    """
    if len(inputs) != 1:
        return _measure(spec, inputs)
    ((name, array),) = inputs.items()
    size = spec.known_sizes.get((name, array.shape))
    if size is None:
        size, known = _measure(spec, inputs), spec.input(name)
        if known is not None and not known.spec.generated and len(spec.known_sizes) < _MOST_SIZES:
            spec.known_sizes[name, array.shape] = size
    return size


def _measure(spec: ModelSpec, inputs: datatypes.Arrays) -> RequestSize:
    rows, lengths = -1, dict.fromkeys(spec.manifest.lengths, -1)
    found_in: dict[str, str] = {}
    for tensor in spec.inputs:
        array = inputs.get(tensor.name)
        if array is None:
            continue
        section, shape = tensor.spec, array.shape
        axis = section.batch_axis
        if axis is not None and axis < len(shape):
            if rows not in (-1, shape[axis]):
                raise _unequal(rows, shape[axis], tensor.name, axis, "rows")
            rows = shape[axis]
        for axis, name in section.lengths.items():
            if lengths[name] not in (-1, shape[axis]):
                raise _unequal(lengths[name], shape[axis], tensor.name, axis, name)
            lengths[name] = shape[axis]
            found_in.setdefault(name, tensor.name)
    if not lengths:
        return RequestSize(max(rows, 0) if rows >= 0 else 1, (), _largest_row(inputs, max(rows, 1)))
    size = _check_bounds(spec, 1 if rows < 0 else rows, lengths, found_in)
    for tensor in spec.inputs:
        if tensor.spec.generated and tensor.name in inputs:
            _check_generated(tensor, inputs[tensor.name], size.rows, lengths[tensor.spec.of])
    return size


def _check_generated(tensor: ModelTensor, array: np.ndarray[Any, Any], rows: int, length: int) -> None:
    """Check an input that a caller sends, instead of leaving it to the server.

    Raises:
        ServingError: BAD_INPUT, they do not fit the other inputs.
    """
    are_lengths = tensor.spec.generated == "lengths"
    shape: tuple[int, ...] = (rows,) if are_lengths else (rows, length)
    shape = shape if tensor.spec.batch_axis != 1 else shape[::-1]
    if tensor.spec.generated == "positions" and tensor.spec.batch_axis is None:  # the same for all rows
        shape = (1,) * (len(tensor.shape) - 1) + (length,)
    omit = "or omit the input: the server generates it"
    if array.shape != shape:
        raise bad_input(
            tensor.name,
            f"shape {list(array.shape)} for {rows} rows of {length} {tensor.spec.of}; send {list(shape)},"
            f" {omit}",
        )
    if are_lengths and array.size and not ((array >= 1) & (array <= length)).all():
        wrong = array[~((array >= 1) & (array <= length))][0]
        raise bad_input(
            tensor.name,
            f"a row of {wrong} {tensor.spec.of}, but the rows have {length}; send lengths from 1 to {length},"
            f" {omit}",
        )


def _unequal(known: int, size: int, tensor: str, axis: int, name: str) -> ServingError:
    return bad_input(
        tensor, f"{size} {name} on axis {axis}, but another input has {known} {name}; make them equal"
    )


def _check_bounds(
    spec: ModelSpec, rows: int, lengths: dict[str, int], found_in: dict[str, str]
) -> RequestSize:
    if rows == 0:
        raise bad_input(spec.inputs[0].name, "no rows; send at least one")
    for name, length in lengths.items():
        longest = spec.manifest.lengths[name].max
        if length == 0:
            raise bad_input(found_in[name], f"no {name}; send at least one")
        if length > longest:
            raise bad_input(
                found_in[name],
                f"length {name!r} is {length}, more than the model's limit of {longest}; shorten the input",
            )
    known_lengths = tuple(max(length, 0) for length in lengths.values())
    if spec.manifest.computed:
        _check_computed(spec, lengths, found_in)
    return RequestSize(rows, known_lengths, max(sum(known_lengths), 1))


def _check_computed(spec: ModelSpec, lengths: dict[str, int], found_in: dict[str, str]) -> None:
    """Check that the model makes at least one element of each output: alone it might fail, and in a batch the
    elements would come from padding."""
    for tensor in spec.outputs:
        for name in tensor.spec.lengths.values():
            if name not in spec.manifest.computed:
                continue
            inputs = [one for one in found_in if one in spec.manifest.sources(name)]
            try:
                made = spec.manifest.length(name, lengths)
                why = f"the output {tensor.name!r} would have {max(made, 0)} elements; send more"
            except ValueError as error:
                made, why = 0, f"the length of the output {tensor.name!r} is not known: {error}"
            if inputs and made < 1:
                sizes = ", ".join(f"{one} is {lengths[one]}" for one in inputs)
                raise bad_input(found_in[inputs[0]], f"{sizes}: {why}")


def _largest_row(inputs: datatypes.Arrays, rows: int) -> int:
    return max((math.ceil(array.size / rows) for array in inputs.values()), default=1) or 1
