"""Where models run: the choice of a device, its probe, and tensors on it.

`choose_device` (a setting) → `Device` → ONNX Runtime's providers of a session
"""

from __future__ import annotations

import ctypes
import logging
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from ...errors import LoadError
from . import small_graphs
from .graph_errors import run_fault

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    Array = np.ndarray[Any, Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Device:
    """Where models run, and how."""

    name: str = "cpu"  # or "cuda"
    index: int = 0  # of several GPUs
    memory_bytes: int = 0  # the most that ONNX Runtime takes of a GPU for one session; 0: no limit
    states: str = "host"  # where the states of sequences are kept: "host" or "device"
    required: bool = False  # a graph that falls back to the CPU is an error
    graphs: bool = True  # on a GPU, steps are captured as CUDA graphs
    sampling: bool = True  # if states are on the device, next tokens are sampled there

    @property
    def captures(self) -> bool:
        """Whether steps may be captured as CUDA graphs."""
        return self.name == "cuda" and self.graphs

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

    @property
    def capturing_providers(self) -> list[Any]:
        """As `providers`, of a GPU, for a session whose runs say which of them is captured."""
        (name, options), fallback = self.providers
        return [(name, {**options, "enable_cuda_graph": "1"}), fallback]


CPU = Device()
RUNTIME_VERSION: str = ort.__version__


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
        session = ort.InferenceSession(graph, session_options(1), providers=device.providers)
        if session.get_providers()[0] == "CUDAExecutionProvider":
            session.run(None, {"x": np.zeros(1, np.float32)})
            return ""
        reason = "ONNX Runtime cannot start it"
    except Exception as error:
        reason = run_fault(error)
    hint = (
        _driver_fault()
        or f"look for a GPU {device.index}, its driver and the CUDA version of this ONNX Runtime"
    )
    return f"{reason}; {hint}"


def _driver_fault() -> str:
    """What is wrong with the driver of the GPUs; empty if nothing is known."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return (
            "this machine has no driver of NVIDIA (libcuda.so.1); install it, or give the container its GPUs"
        )
    version = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)) or not version.value:
        return ""
    supported = f"{version.value // 1000}.{version.value % 1000 // 10}"
    needed = str(getattr(ort, "cuda_version", "") or "")
    # A driver runs all minor versions of its major one.
    if not needed or int(supported.split(".")[0]) >= int(needed.split(".")[0]):
        return ""
    return f"the driver supports CUDA {supported}, and this ONNX Runtime needs {needed}; update the driver"


class DeviceArray:
    """A tensor on the device of a session."""

    __slots__ = ("_dtype", "value")

    def __init__(self, value: ort.OrtValue) -> None:
        self.value = value
        self._dtype: Any = None  # of the array that it was made of

    @classmethod
    def of(cls, array: Array, device: Device) -> DeviceArray:
        """A copy of an array on a device."""
        copy = np.array(array, order="C")
        new = cls(ort.OrtValue.ortvalue_from_numpy(copy, device.name, device.index))
        new._dtype = copy.dtype
        return new

    @classmethod
    def empty(cls, shape: Sequence[int], kind: Any, device: Device) -> DeviceArray:
        """A tensor on a device with arbitrary elements, of a numpy type or a `TensorProto.DataType`."""
        make = ort.OrtValue.ortvalue_from_shape_and_type
        return cls(make(list(shape), kind, device.name, device.index))

    def takes(self, array: Array) -> bool:
        """Whether `update` can have this array."""
        return bool(self._dtype == array.dtype) and self.shape == array.shape

    def update(self, array: Array) -> None:
        """Replace the elements of a copy of an array by those of another one, where they are."""
        self.value.update_inplace(np.ascontiguousarray(array))

    def numpy(self) -> Array:
        """A copy on the host."""
        array: Array = self.value.numpy()
        return array.copy() if self.value.device_name() == "cpu" else array

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape())

    @property
    def ndim(self) -> int:
        return len(self.value.shape())

    @property
    def nbytes(self) -> int:
        return int(self.value.tensor_size_in_bytes())


def session_options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised as exceptions and logged by the engine
    # A spinning thread would take a core from the front end.

    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def check_on_gpu(session: ort.InferenceSession, file: Path, *, required: bool) -> None:
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
