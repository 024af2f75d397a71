"""A graph in an ONNX Runtime session. Only this module runs graphs.

Running a graph releases Python's global interpreter lock; creating a session does not.
"""

from __future__ import annotations

import ctypes
import logging
import math
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnxruntime as ort

from ... import memory
from ...errors import RunTooLong, bad_input, overloaded
from ...model.spec import GraphSignature, GraphTensor
from .device import CPU, Device, DeviceArray, check_on_gpu, session_options
from .graph_errors import check_files, is_out_of_memory, load_error, run_fault
from .run_watch import RunWatch, WatchedRun

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .device_scheduler import DeviceAccount, DeviceScheduler

    Array = np.ndarray[Any, Any]

log = logging.getLogger(__name__)

_REJECTED = "send tensors with shapes and values like those of the model's training"

_NO_MEMORY = "the device has not enough memory for another run; retry after"
_RETRY_S = 1.0

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_BFLOAT16_ONNX = 16  # onnx.TensorProto.BFLOAT16

_NOT_CAPTURED = "its steps launch each kernel, as ONNX Runtime makes no CUDA graph of them"

_BYTES = attrgetter("nbytes")

_NO_GRAPH = "-1"
"""The graph id of runs that neither capture nor replay one, in a session that captures others."""

_CAPTURE_AFTER = 16
"""Steps with the same values before they are captured, which takes as long as several steps."""

_MOST_GRAPHS = 128
"""CUDA graphs of a session. ONNX Runtime keeps each as long as the session."""


@dataclass
class _Bound:
    """A binding of a graph's inputs and outputs."""

    io: Any
    values: tuple[DeviceArray, ...] = ()  # all of them, if all are on the device and stay where they are
    runs: int = 0
    graph: str = ""  # the id of its CUDA graph


class Bindings:
    """The bindings of one block, each made once, as its steps read and write the same values again and again.
    There are two: what one step writes, the next one reads."""

    _MOST = 2

    def __init__(self) -> None:
        self._bound: dict[tuple[int, ...], _Bound] = {}

    def find(self, values: tuple[DeviceArray, ...]) -> _Bound | None:
        return self._bound.get(tuple(map(id, values)))

    def add(self, bound: _Bound) -> None:
        if len(self._bound) >= self._MOST:
            self._bound.clear()  # it keeps values that are used no more
        self._bound[tuple(map(id, bound.values))] = bound

    def clear(self) -> None:
        """Let all values go."""
        self._bound.clear()


class OnnxSession:
    """One loaded graph. Its methods may be called from any thread, concurrently.

    Args:
        watch: ends runs that take too long.
        owner: NAME/VERSION of the model, for logs and errors.
        captures: on a GPU, runs with the same bindings again and again become CUDA graphs, if it can be.

    Raises:
        LoadError: this ONNX Runtime cannot load the file.
    """

    def __init__(
        self,
        file: Path | bytes,
        device: Device = CPU,
        threads: int = 1,
        watch: RunWatch | None = None,
        owner: str = "",
        *,
        captures: bool = False,
    ) -> None:
        self.captures = captures and device.captures
        self._graph_ids: dict[tuple[Any, ...], str] = {}
        if isinstance(file, bytes):
            self._session = self._open(file, device, threads)
        else:
            check_files(file)
            try:
                self._session = self._open(file, device, threads)
            except Exception as error:
                raise load_error(file, error) from error
        self.provider: str = self._session.get_providers()[0]
        if device.name == "cuda" and not isinstance(file, bytes):
            check_on_gpu(self._session, file, required=device.required)
        self._has_graphs = self.captures  # each run says which
        self.graph = _describe(self._session)
        self._watch, self._owner = watch or RunWatch(), owner
        self._running: set[WatchedRun] = set()
        self._done: list[WatchedRun] = []  # short runs, whose options later ones use: they take long to make
        self._terminated = False
        self._bfloat16 = any(
            tensor.onnx_type.endswith("(bfloat16)") for tensor in (*self.graph.inputs, *self.graph.outputs)
        )
        self.output_names = [tensor.name for tensor in self.graph.outputs]
        self.encoder: OnnxSession | None = None  # of a prefill graph: the encoder graph that runs before it
        self.device = device
        self.state_graphs: Any = None  # a `StateGraphs`, if states are kept on the device
        self.steps = False  # it has inputs of about one size at every step, for which it keeps memory
        self._most_bytes = 0

    @property
    def binds_all(self) -> bool:
        """Whether all inputs and outputs can be values on the device."""
        return not self._bfloat16

    def _open(self, file: Path | bytes, device: Device, threads: int) -> ort.InferenceSession:
        model = file if isinstance(file, bytes) else str(file)
        options = session_options(threads)
        if device.name == "cuda":
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if self.captures:
            try:
                return _open_to_capture(model, options, device)
            except Exception as error:  # whatever else is wrong will be so without them too
                self.captures = False
                name = "a graph of the server" if isinstance(file, bytes) else file
                log.warning("%s: %s: %s", name, _NOT_CAPTURED, run_fault(error))
        return ort.InferenceSession(model, options, providers=device.providers)

    def run(
        self,
        inputs: Mapping[str, Any],
        outputs: Sequence[str] | None = None,
        kept: Mapping[str, DeviceArray | None] | None = None,
        bindings: Bindings | None = None,
    ) -> list[Any]:
        """Run the graph once. Returns the arrays of `outputs`, in their order (None: all outputs).

        Args:
            inputs: arrays or, with `kept`, also values on the device.
            kept: the outputs that stay on the device, each in a new value, or in the one that is given.
            bindings: those of earlier runs with the same values. All inputs are values then, and all outputs
                are kept in given ones.

        Raises:
            ServingError: BAD_INPUT: ONNX Runtime rejects an input.
            RunTooLong: the run took longer than `max_run_s`, and was ended.
            ServingError: OVERLOADED: the device has not enough memory for it now.
            Exception: any other error of ONNX Runtime.
        """
        run = self._begin()
        options: ort.RunOptions = run.options
        as_usual = not self._has_graphs
        if kept is None and self._is_to_shrink(sum(map(_BYTES, inputs.values()))):
            self._watch.had_large_run = True
            if self.provider == "CPUExecutionProvider":
                as_usual = False
                options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        if self._has_graphs and bindings is None:
            options.add_run_config_entry("gpu_graph_id", _NO_GRAPH)
        try:
            if kept is not None:
                return self._run_bound(inputs, outputs or self.output_names, kept, bindings, options)
            if self._bfloat16:
                return self._run_values(inputs, outputs, options)
            return self._session.run(outputs or self.output_names, inputs, options)  # type: ignore[no-any-return]
        except ort.capi.onnxruntime_pybind11_state.InvalidArgument as error:
            raise bad_input("inputs", f"{run_fault(error)}; {_REJECTED}") from error
        except Exception as error:
            if run.is_ended and not self._terminated:
                raise RunTooLong(self._owner, run.limit_s) from error
            # A device is shared and small; a host without memory for a run will have none later either.
            on_device = kept is not None or self.provider != "CPUExecutionProvider"
            if on_device and is_out_of_memory(error):
                raise overloaded(f"{_NO_MEMORY} {_RETRY_S:g} s, or send less", _RETRY_S) from error
            raise
        finally:
            self._running.discard(run)
            if self._watch.done(run) and as_usual:
                self._done.append(run)

    def _begin(self) -> WatchedRun:
        """Begin a run, with the options of an earlier one if there are any."""
        try:
            run = self._done.pop()
        except IndexError:
            run = self._watch.begin(self._owner, ort.RunOptions())
        else:
            self._watch.begin_again(run)
        self._running.add(run)
        if self._terminated:
            run.terminate()
        return run

    def _is_to_shrink(self, size: int) -> bool:
        """Whether to give memory back after a run with `size` bytes of inputs: a large one or, of steps, one
        that needs much less than those before."""
        if not self.steps:
            return size >= memory.LARGE_BYTES
        shrinks = self._most_bytes >= memory.LARGE_BYTES and 4 * size < self._most_bytes
        self._most_bytes = size if shrinks else max(size, self._most_bytes)
        return shrinks

    @property
    def terminated(self) -> bool:
        """Whether no run succeeds any more."""
        return self._terminated

    def terminate(self) -> None:
        """Abort all current runs at their next node, and all later runs."""
        self._terminated = True
        for run in list(self._running):
            run.terminate()

    def _run_values(
        self, inputs: Mapping[str, Array], outputs: Sequence[str] | None, options: ort.RunOptions
    ) -> list[Array]:
        """As `run`, for graphs with bfloat16 tensors, which ONNX Runtime cannot exchange with numpy."""
        values = {name: _to_value(array) for name, array in inputs.items()}
        results = self._session.run_with_ort_values(outputs, values, options)
        return [_from_value(value) for value in results]

    def _run_bound(
        self,
        inputs: Mapping[str, Any],
        outputs: Sequence[str],
        kept: Mapping[str, DeviceArray | None],
        bindings: Bindings | None,
        options: ort.RunOptions,
    ) -> list[Any]:
        """As `run`, with inputs and outputs that are bound to values."""
        if bindings is None:
            bound = self._bind(inputs, outputs, kept)
            self._session.run_with_iobinding(bound.io, options)
            found = zip(outputs, bound.io.get_outputs(), strict=True)
            return [DeviceArray(value) if name in kept else _from_value(value) for name, value in found]
        given = [kept[name] for name in outputs]
        values = (*inputs.values(), *given)
        known = bindings.find(values)
        bound = known or self._bind(inputs, outputs, kept)
        if known is None:
            bound.values = values
            bindings.add(bound)
        if self._has_graphs:
            options.add_run_config_entry("gpu_graph_id", self._graph_id(bound))
        self._session.run_with_iobinding(bound.io, options)
        return given

    def _bind(
        self, inputs: Mapping[str, Any], outputs: Sequence[str], kept: Mapping[str, DeviceArray | None]
    ) -> _Bound:
        io = self._session.io_binding()
        for name, given in inputs.items():
            io.bind_ortvalue_input(name, given.value if isinstance(given, DeviceArray) else _to_value(given))
        for name in outputs:
            place = kept.get(name)
            if place is not None:
                io.bind_ortvalue_output(name, place.value)
            elif name in kept:
                io.bind_output(name, self.device.name, self.device.index)
            else:
                io.bind_output(name)
        return _Bound(io)

    def stop_capturing(self, error: Exception) -> None:
        """Run without CUDA graphs from now on, as one could not be captured or replayed."""
        if self.captures:
            self.captures = False
            log.warning("%s: %s: %s", self._owner, _NOT_CAPTURED, run_fault(error))

    def _graph_id(self, bound: _Bound) -> str:
        """The CUDA graph that a run captures, or that replays it: one for each set of addresses and shapes.
        Runs of few steps have none."""
        bound.runs += 1
        if not self.captures:
            return _NO_GRAPH
        if not bound.graph and bound.runs > _CAPTURE_AFTER:
            places = tuple((one.value.data_ptr(), one.shape) for one in bound.values)
            if places in self._graph_ids or len(self._graph_ids) < _MOST_GRAPHS:
                bound.graph = self._graph_ids.setdefault(places, str(len(self._graph_ids) + 1))
        return bound.graph or _NO_GRAPH


class LeasedSession(OnnxSession):
    """An open session whose runs each take a lease of the device, so that loading a model delays the runs of
    other models by one run at most."""

    def __init__(
        self, session: OnnxSession, device_scheduler: DeviceScheduler, account: DeviceAccount
    ) -> None:
        self.__dict__.update(session.__dict__)  # the same open session
        self._device_scheduler, self._account = device_scheduler, account
        if self.encoder is not None:
            self.encoder = LeasedSession(self.encoder, device_scheduler, account)

    def run(
        self,
        inputs: Mapping[str, Any],
        outputs: Sequence[str] | None = None,
        kept: Mapping[str, DeviceArray | None] | None = None,
        bindings: Bindings | None = None,
    ) -> list[Any]:
        with self._device_scheduler.lease(self._account, math.inf):
            return super().run(inputs, outputs, kept, bindings)


def _open_to_capture(model: bytes | str, options: ort.SessionOptions, device: Device) -> ort.InferenceSession:
    """
    Raises:
        Exception: ONNX Runtime cannot capture the graph, or opens it on the CPU instead.
    """
    opened = ort.InferenceSession(model, options, providers=device.capturing_providers)
    if opened.get_providers()[0] != "CUDAExecutionProvider":
        raise RuntimeError("it would run on the CPU")
    return opened


def _describe(session: ort.InferenceSession) -> GraphSignature:
    defaults = [_tensor(arg, optional=True) for arg in session.get_overridable_initializers()]
    return GraphSignature(
        inputs=(*(_tensor(arg) for arg in session.get_inputs()), *defaults),
        outputs=tuple(_tensor(arg) for arg in session.get_outputs()),
    )


def _tensor(arg: Any, *, optional: bool = False) -> GraphTensor:
    shape = tuple(axis if isinstance(axis, str | int) else None for axis in arg.shape)
    return GraphTensor(arg.name, arg.type, shape, optional)


def _to_value(array: Array) -> ort.OrtValue:
    if array.dtype == _BFLOAT16:
        bits = np.asarray(array, order="C").view(np.uint16)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, _BFLOAT16_ONNX)
    return ort.OrtValue.ortvalue_from_numpy(array)


def _from_value(value: ort.OrtValue) -> Array:
    if value.element_type() != _BFLOAT16_ONNX:
        return value.numpy()  # type: ignore[no-any-return]
    shape = value.shape()
    count = int(np.prod(shape, dtype=np.int64))
    if count == 0:
        return np.zeros(shape, _BFLOAT16)
    bits = (ctypes.c_uint16 * count).from_address(value.data_ptr())
    array: Array = np.array(bits, dtype=np.uint16).view(_BFLOAT16).reshape(shape)
    return array
