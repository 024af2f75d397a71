"""The states of a block on the device of the model, where a step reads and leaves them.

Values that one step returns are the next step's inputs, and are bound as such. Rows are moved by small graphs
on the same device: Gather picks rows, ScatterND writes rows and the new elements of caches in place. So all
of it runs on any provider of ONNX Runtime, and is tested on the CPU's. What `host_states.py` says of its
methods holds here too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import RunTooLong
from ..runtime.device import DeviceArray
from ..runtime.session import Bindings, OnnxSession
from ..runtime.small_graphs import Node, model, places
from .device_sampler import DeviceSampler
from .host_states import HostStates, shape_of, zeros

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec, StateTensor
    from ..runtime.device import Device
    from .host_states import Lengths

    Array = np.ndarray[Any, Any]
    Values = dict[str, DeviceArray]

_ROWS = "rows"


class StateGraphs:
    """The graphs that move the states of one model, opened when they are first needed. Thread-safe."""

    def __init__(self, spec: ModelSpec, device: Device) -> None:
        self._states = {state.spec.name: state for state in spec.states}
        self._device = device
        can_sample = device.sampling and DeviceSampler.can_sample(spec)
        self.sampler = DeviceSampler(spec, device) if can_sample else None
        self._pick: dict[tuple[str, ...], OnnxSession] = {}
        self._place: dict[tuple[str, ...], OnnxSession] = {}

    def upload(self, array: Array) -> DeviceArray:
        """A copy of an array on the device."""
        return DeviceArray.of(array, self._device)

    def empty(self, shape: tuple[int, ...], kind: Any) -> DeviceArray:
        """A value on the device with arbitrary elements."""
        return DeviceArray.empty(shape, kind, self._device)

    def copy(self, value: DeviceArray) -> DeviceArray:
        """A copy in memory that no run of a graph uses; by the host, as it is made once for each block."""
        return self.upload(value.numpy())

    def pick(
        self, values: Values, rows: Array, lengths: Mapping[str, Array], *, to_host: bool = False
    ) -> Any:
        """These rows of each value and, along a named length, these elements; on the device, or as arrays."""
        names = tuple(values)
        if names not in self._pick:
            self._pick[names] = self._open(*_picking([self._states[name] for name in names]))
        feeds: dict[str, Any] = {**{f"from {name}": value for name, value in values.items()}, _ROWS: rows}
        states = [self._states[name] for name in names]
        used = {state.dynamic_axis[1] for state in states if state.dynamic_axis}
        feeds |= {f"until {length}": lengths[length] for length in used}
        outputs = [f"to {name}" for name in names]
        found = self._pick[names].run(feeds, outputs, {} if to_host else dict.fromkeys(outputs))
        return dict(zip(names, found, strict=True))

    def place(self, values: Values, indices: Mapping[str, Array], updates: Mapping[str, Any]) -> None:
        """Write `updates` into these values, in place, where the indices of ScatterND say."""
        names = tuple(indices)
        if names not in self._place:
            self._place[names] = self._open(*_placing([self._states[name] for name in names]))
        feeds: dict[str, Any] = {f"into {name}": values[name] for name in names}
        feeds |= {f"at {name}": indices[name] for name in names}
        feeds |= {f"new {name}": updates[name] for name in names}
        kept = {f"to {name}": values[name] for name in names}
        self._place[names].run(feeds, list(kept), kept)

    def _open(
        self, nodes: Sequence[Node], inputs: Mapping[str, str], outputs: Mapping[str, str]
    ) -> OnnxSession:
        return OnnxSession(model(nodes, inputs, outputs), self._device)


def _picking(states: Sequence[StateTensor]) -> tuple[list[Node], dict[str, str], dict[str, str]]:
    nodes, inputs = [], {_ROWS: "INT64"}
    for state in states:
        name, source = state.spec.name, f"from {state.spec.name}"
        inputs[source] = state.datatype
        if state.dynamic_axis:
            axis, length = state.dynamic_axis
            inputs[f"until {length}"] = "INT64"
            nodes.append(Node("Gather", [source, f"until {length}"], f"part of {name}", {"axis": axis}))
            source = f"part of {name}"
        nodes.append(Node("Gather", [source, _ROWS], f"to {name}", {"axis": state.spec.batch_axis}))
    return nodes, inputs, {f"to {state.spec.name}": state.datatype for state in states}


def _placing(states: Sequence[StateTensor]) -> tuple[list[Node], dict[str, str], dict[str, str]]:
    nodes: list[Node] = []
    inputs: dict[str, str] = {}
    for state in states:
        name = state.spec.name
        into, at, new = f"into {name}", f"at {name}", f"new {name}"
        inputs |= {into: state.datatype, at: "INT64", new: state.datatype}
        nodes.append(Node("ScatterND", [into, at, new], f"to {name}"))
    return nodes, inputs, {f"to {state.spec.name}": state.datatype for state in states}


def _kind(one: Array | DeviceArray) -> tuple[tuple[int, ...], Any]:
    """The shape and the type of an output."""
    return one.shape, one.value.element_type() if isinstance(one, DeviceArray) else one.dtype


def make_states(
    spec: ModelSpec, rows: int, size: Mapping[str, int], graphs: StateGraphs | None
) -> HostStates | DeviceStates:
    """The states of vacant rows: on a device, if there are graphs that move them there."""
    return HostStates(spec, rows, size) if graphs is None else DeviceStates(spec, rows, size, graphs)


class DeviceStates:
    """As `HostStates`, on a device."""

    def __init__(
        self,
        spec: ModelSpec,
        rows: int,
        size: Mapping[str, int],
        graphs: StateGraphs,
        values: Values | None = None,
    ) -> None:
        self._spec, self._rows, self._graphs = spec, rows, graphs
        self._values = values or {
            state.spec.name: graphs.upload(zeros(state, rows, size)) for state in spec.states
        }
        # A length that is not padded is another one in each step.
        self._holds = not set(spec.unpadded).intersection(spec.growing_lengths)
        self._inputs: dict[str, DeviceArray] = {}  # of a step, except states
        self._outputs: Values = {}  # where a step writes: of a state, the value of the step before
        self._kinds: dict[str, tuple[tuple[int, ...], Any]] = {}  # shapes and types of the latest outputs
        self._bindings = Bindings()

    @property
    def nbytes(self) -> int:
        return sum(value.nbytes for value in self._values.values())

    def write(self, row: int, states: Arrays, lengths: Lengths) -> None:
        own = HostStates(self._spec, 1, self._size())
        own.write(0, states, lengths)
        self._place_rows(np.array([row]), own.arrays)

    def take(self, row: int, lengths: Lengths) -> Arrays:
        until = {name: np.arange(lengths[name]) for name in self._spec.state_lengths}
        found: Arrays = self._graphs.pick(self._values, np.array([row]), until, to_host=True)
        return found

    def clear(self, row: int) -> None:
        self._place_rows(np.array([row]), HostStates(self._spec, 1, self._size()).arrays)

    def gather(self, rows: Array, sources: Array) -> None:
        every = np.arange(self._rows)
        every[rows] = sources
        changed = {name: self._values[name] for name in self._changed()}
        self._values |= self._graphs.pick(changed, every, self._until(self._size()))
        self._bindings.clear()

    def resized(self, rows: int, kept: Array, size: Mapping[str, int]) -> DeviceStates:
        own = self._size()
        both = {name: min(own[name], size[name]) for name in own}
        found = self._graphs.pick(self._values, kept, self._until(both))
        if rows == len(kept) and both == dict(size):
            return DeviceStates(self._spec, rows, size, self._graphs, found)
        new = DeviceStates(self._spec, rows, size, self._graphs)
        indices = {}
        for state in self._spec.states:
            along = {state.spec.batch_axis: np.arange(len(kept))}
            if state.dynamic_axis:
                along[state.dynamic_axis[0]] = np.arange(both[state.dynamic_axis[1]])
            indices[state.spec.name] = places(shape_of(state, rows, size), along)
        if len(kept):
            self._graphs.place(new._values, indices, found)
        return new

    def put(self, rows: Array, other: DeviceStates) -> None:
        changed = {name: other._values[name] for name in self._changed()}
        if len(rows) < other._rows:
            changed = self._graphs.pick(changed, np.arange(len(rows)), {})
        self._place_rows(rows, changed)

    # --- a step -------------------------------------------------------------------------------------

    def run(self, session: OnnxSession, feeds: dict[str, Any], on_device: str = "") -> dict[str, Any]:
        names = self._spec.fetched or session.output_names
        staying = {state.spec.output for state in self._spec.states} | {on_device}
        failed: Exception | None = None
        if self._holds and self._kinds and session.binds_all:
            try:
                return self._run_held(session, feeds, names, staying)
            except RunTooLong:
                raise
            except Exception as error:  # if it is that of a capture, or of outputs with new shapes, try anew
                failed = error
        given = {**feeds, **self._state_inputs()}
        kept = {name: None for name in names if name in staying}
        found = dict(zip(names, session.run(given, names, kept), strict=True))
        if failed is not None:
            self._holds = False
            session.stop_capturing(failed)
        self._kinds = {name: _kind(one) for name, one in found.items()}
        if session.captures:  # the memory of a run, which a CUDA graph of another block may write to
            found |= {name: self._graphs.copy(found[name]) for name in kept}
        return found

    def _run_held(
        self, session: OnnxSession, feeds: dict[str, Any], names: Sequence[str], staying: Collection[str]
    ) -> dict[str, Any]:
        """As `run`, with all inputs and outputs in values that stay where they are from step to step."""
        for name, array in feeds.items():
            held = self._inputs.get(name)
            if held is not None and held.takes(array):
                held.update(array)
            else:
                self._inputs[name] = self._graphs.upload(array)
        for name in names:
            if name not in self._outputs:
                self._outputs[name] = self._graphs.empty(*self._kinds[name])
        places = {name: self._outputs[name] for name in names}
        given = {**{name: self._inputs[name] for name in feeds}, **self._state_inputs()}
        session.run(given, names, places, self._bindings)
        return {name: one if name in staying else one.numpy() for name, one in places.items()}

    def _state_inputs(self) -> Values:
        return {state.spec.input: self._values[state.spec.name] for state in self._spec.states}

    def advance(self, given: Mapping[str, DeviceArray], ends: Mapping[str, Array]) -> None:
        indices: dict[str, Array] = {}
        updates: Values = {}
        longer: Values = {}
        for state in self._spec.states:
            name = state.spec.name
            if name not in given:
                continue
            if not (state.spec.grows and state.dynamic_axis):
                self._outputs[state.spec.output] = self._values[name]
                self._values[name] = given[name]
                continue
            axis, length = state.dynamic_axis
            held = self._values[name].shape[axis]
            is_whole = given[name].shape[axis] > held
            if length in ends:
                updates[name] = given[name]
                indices[name] = self._element(state, ends[length])
                if is_whole:
                    longer[name] = given[name]
            else:
                self._values[name] = given[name] if is_whole else self._extended(state, given[name])
        if longer:
            self._split(longer, updates)
        if indices:
            self._graphs.place(self._values, indices, updates)

    def _split(self, whole: Values, updates: Values) -> None:
        """Put the last elements of whole caches into `updates`; keep the others if a step may change them."""
        every, size = np.arange(self._rows), self._size()
        last = {length: np.array([count]) for length, count in size.items()}
        updates.update(self._graphs.pick(whole, every, last))
        if not self._spec.keeps_elements:
            self._values |= self._graphs.pick(whole, every, self._until(size))

    def _extended(self, state: StateTensor, given: DeviceArray) -> DeviceArray:
        """A cache that is longer by one element in all rows."""
        name, (axis, length) = state.spec.name, state.dynamic_axis or (0, "")
        held = self._values[name]
        size = {length: held.shape[axis] + 1}
        longer = {name: self._graphs.upload(zeros(state, self._rows, size))}
        for start, value in ((0, held), (held.shape[axis], given)):
            along = {axis: np.arange(start, start + value.shape[axis])}
            at = places(
                shape_of(state, self._rows, size), {state.spec.batch_axis: np.arange(self._rows), **along}
            )
            self._graphs.place(longer, {name: at}, {name: value})
        return longer[name]

    def _element(self, state: StateTensor, ends: Array) -> Array:
        """The indices of one element of each row, at place `ends` along the axis of its length."""
        axis, _ = state.dynamic_axis or (0, "")
        batch = state.spec.batch_axis
        shape = [1] * (max(axis, batch) + 1)
        shape[batch] = self._rows
        along = {batch: np.arange(self._rows).reshape(shape), axis: ends.reshape(shape)}
        return places(self._values[state.spec.name].shape, along)

    # --- rows ---------------------------------------------------------------------------------------

    def _place_rows(self, rows: Array, updates: Mapping[str, Any]) -> None:
        by_name = {state.spec.name: state for state in self._spec.states}
        indices = {
            name: places(self._values[name].shape, {by_name[name].spec.batch_axis: rows}) for name in updates
        }
        self._graphs.place(self._values, indices, updates)

    def _changed(self) -> Iterable[str]:
        return (state.spec.name for state in self._spec.states if state.spec.output)

    def _size(self) -> dict[str, int]:
        """The named lengths of these states."""
        return {
            state.dynamic_axis[1]: self._values[state.spec.name].shape[state.dynamic_axis[0]]
            for state in self._spec.states
            if state.dynamic_axis
        }

    @staticmethod
    def _until(size: Mapping[str, int]) -> dict[str, Array]:
        return {name: np.arange(count) for name, count in size.items()}
