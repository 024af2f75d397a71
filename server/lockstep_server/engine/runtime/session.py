"""A graph in an ONNX Runtime session. Only this module runs graphs.

Running a graph releases Python's global interpreter lock; creating a session does not.
"""

from __future__ import annotations

import ctypes
import logging
import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnxruntime as ort

from ... import memory
from ...errors import LoadError, RunTooLong, bad_input, overloaded
from ...model.spec import GraphSignature, GraphTensor
from . import small_graphs
from .graph_errors import check_files, is_out_of_memory, load_error, run_fault
from .run_watch import RunWatch

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

RUNTIME_VERSION: str = ort.__version__


@dataclass(frozen=True)
class Device:
    """Where models run, and how."""

    name: str = "cpu"  # or "cuda"
    index: int = 0  # of several GPUs
    memory_bytes: int = 0  # the most that ONNX Runtime takes of a GPU for one session; 0: no limit
    states: str = "host"  # where the states of sequences are kept: "host" or "device"
    required: bool = False  # a graph that falls back to the CPU is an error

    @property
    def providers(self) -> list[Any]:
        """ONNX Runtime's providers, the first of which should run the nodes of a graph."""
        if self.name != "cuda":
            return ["CPUExecutionProvider"]
        # The default, an exhaustive search for convolution algorithms, repeats for every new shape.
        options = {"cudnn_conv_algo_search": "HEURISTIC", "device_id": str(self.index)}
        if self.memory_bytes:
            options |= {"gpu_mem_limit": str(self.memory_bytes), "arena_extend_strategy": "kSameAsRequested"}
        return [("CUDAExecutionProvider", options), "CPUExecutionProvider"]


CPU = Device()


def providers() -> list[str]:
    """The execution providers of this ONNX Runtime."""
    found: list[str] = ort.get_available_providers()
    return found


def choose_device(wanted: str, index: int = 0, memory_bytes: int = 0, states: str = "auto") -> Device:
    """The device for the setting "cpu", "cuda" or "auto": CUDA if it works here. `states` is "host", "device"
    or "auto": on a GPU if there is one.

    Raises:
        LoadError: the setting is "cuda", and a graph does not run on CUDA here.
    """
    device = Device("cuda", index, memory_bytes)
    why = "" if wanted == "cpu" else _why_not(device)
    if wanted == "cuda" and why:
        raise LoadError(f"--device cuda: {why}; or use --device cpu")
    if wanted == "auto" and why and "CUDAExecutionProvider" in ort.get_available_providers():
        log.warning("models run on the CPU, although this ONNX Runtime supports CUDA: %s", why)
    if wanted == "cpu" or why:
        device = Device()
    kept = ("device" if device.name == "cuda" else "host") if states == "auto" else states
    return replace(device, states=kept, required=wanted == "cuda")


def _why_not(device: Device) -> str:
    """Why a graph does not run on CUDA; empty if it does."""
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return "this ONNX Runtime does not support CUDA; install the extra server-gpu"
    ort.preload_dlls()
    graph = small_graphs.model([small_graphs.Node("Identity", ["x"], "y")], {"x": "FP32"}, {"y": "FP32"})
    try:
        session = ort.InferenceSession(graph, _options(1), providers=device.providers)
        if session.get_providers()[0] == "CUDAExecutionProvider":
            session.run(None, {"x": np.zeros(1, np.float32)})
            return ""
        reason = "ONNX Runtime cannot start it"
    except Exception as error:
        reason = run_fault(error)
    return f"{reason}; look for a GPU {device.index}, its driver and the CUDA version of this ONNX Runtime"


class DeviceArray:
    """A tensor on the device of a session."""

    __slots__ = ("value",)

    def __init__(self, value: ort.OrtValue) -> None:
        self.value = value

    @classmethod
    def of(cls, array: Array, device: Device) -> DeviceArray:
        """A copy of an array on a device."""
        return cls(ort.OrtValue.ortvalue_from_numpy(np.array(array, order="C"), device.name, device.index))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape())

    @property
    def ndim(self) -> int:
        return len(self.value.shape())

    @property
    def nbytes(self) -> int:
        return int(self.value.tensor_size_in_bytes())


class OnnxSession:
    """One loaded graph. Its methods may be called from any thread, concurrently.

    Args:
        watch: ends runs that take too long.
        owner: NAME/VERSION of the model, for logs and errors.

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
    ) -> None:
        options = _options(threads)
        if device.name == "cuda":
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if isinstance(file, bytes):
            self._session = ort.InferenceSession(file, options, providers=device.providers)
        else:
            check_files(file)
            try:
                self._session = ort.InferenceSession(str(file), options, providers=device.providers)
            except Exception as error:
                raise load_error(file, error) from error
        self.provider: str = self._session.get_providers()[0]
        if device.name == "cuda" and not isinstance(file, bytes):
            _check_on_gpu(self._session, file, required=device.required)
        self.graph = _describe(self._session)
        self._watch, self._owner = watch or RunWatch(), owner
        self._running: set[ort.RunOptions] = set()
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

    def run(
        self,
        inputs: Mapping[str, Any],
        outputs: Sequence[str] | None = None,
        kept: Mapping[str, DeviceArray | None] | None = None,
    ) -> list[Any]:
        """Run the graph once. Returns the arrays of `outputs`, in their order (None: all outputs).

        Args:
            inputs: arrays or, with `kept`, also values on the device.
            kept: the outputs that stay on the device, each in a new value, or in the one that is given.

        Raises:
            ServingError: BAD_INPUT: ONNX Runtime rejects an input.
            RunTooLong: the run took longer than `max_run_s`, and was ended.
            ServingError: OVERLOADED: the device has not enough memory for it now.
            Exception: any other error of ONNX Runtime.
        """
        options = ort.RunOptions()
        run = self._watch.begin(self._owner, options)
        self._running.add(options)
        if self._terminated:
            options.terminate = True
        if kept is None and self._is_to_shrink(sum(array.nbytes for array in inputs.values())):
            self._watch.had_large_run = True
            if self.provider == "CPUExecutionProvider":
                options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        try:
            if kept is not None:
                return self._run_bound(inputs, outputs or self.output_names, kept, options)
            if self._bfloat16:
                return self._run_values(inputs, outputs, options)
            return self._session.run(outputs, inputs, options)  # type: ignore[no-any-return]
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
            self._running.discard(options)
            self._watch.done(run)

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
        for options in list(self._running):
            options.terminate = True

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
        options: ort.RunOptions,
    ) -> list[Any]:
        """As `run`, with inputs and outputs that are bound to values."""
        binding = self._session.io_binding()
        values = {
            name: given.value if isinstance(given, DeviceArray) else _to_value(given)
            for name, given in inputs.items()
        }  # which the binding of some versions does not keep
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        for name in outputs:
            place = kept.get(name)
            if place is not None:
                binding.bind_ortvalue_output(name, place.value)
            elif name in kept:
                binding.bind_output(name, self.device.name, self.device.index)
            else:
                binding.bind_output(name)
        self._session.run_with_iobinding(binding, options)
        found = zip(outputs, binding.get_outputs(), strict=True)
        return [DeviceArray(value) if name in kept else _from_value(value) for name, value in found]


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
    ) -> list[Any]:
        with self._device_scheduler.lease(self._account, math.inf):
            return super().run(inputs, outputs, kept)


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised as exceptions and logged by the engine
    # A spinning thread would take a core from the front end.

    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _check_on_gpu(session: ort.InferenceSession, file: Path, *, required: bool) -> None:
    """Log the nodes of a graph that do not run on the GPU.

    Raises:
        LoadError: `required`, and none does.
    """
    if session.get_providers()[0] != "CUDAExecutionProvider":
        why = f"{file}: ONNX Runtime runs the graph on the CPU, not on the GPU, and does not say why"
        if required:
            raise LoadError(f"{why}; use --device auto to accept that")
        log.warning("%s", why)
    elif elsewhere := nodes_elsewhere(session, "CUDAExecutionProvider"):
        operators = ", ".join(f"{count} {operator}" for operator, count in elsewhere.most_common())
        cost = "their tensors go to the host and back in each run"
        log.warning("%s: nodes without a kernel for the GPU run on the CPU: %s; %s", file, operators, cost)


def nodes_elsewhere(session: ort.InferenceSession, provider: str) -> Counter[str]:
    """The nodes that other providers run, by operator; none if this ONNX Runtime does not tell, or was not
    asked to record it."""
    assigned: list[Any] = getattr(session, "get_provider_graph_assignment_info", list)()
    others = (one for one in assigned if one.ep_name != provider)
    return Counter(node.op_type for one in others for node in one.get_nodes())


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
