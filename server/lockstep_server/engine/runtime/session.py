"""A graph in an ONNX Runtime session. Only this module runs graphs.

Running a graph releases Python's global interpreter lock; creating a session does not.
"""

from __future__ import annotations

import ctypes
import math
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnxruntime as ort

from ... import memory
from ...errors import LoadError, RunTooLong, bad_input
from ...model.spec import GraphSignature, GraphTensor
from .graph_errors import check_files, load_error, run_fault
from .run_watch import RunWatch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .device_scheduler import DeviceAccount, DeviceScheduler

    Array = np.ndarray[Any, Any]

_REJECTED = "send tensors with shapes and values like those of the model's training"

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_BFLOAT16_ONNX = 16  # onnx.TensorProto.BFLOAT16

RUNTIME_VERSION: str = ort.__version__


def choose_device(wanted: str) -> str:
    """The device, "cpu" or "cuda", for the setting "cpu", "cuda" or "auto" (CUDA if available).

    Raises:
        LoadError: the setting is "cuda" and this ONNX Runtime does not support CUDA.
    """
    has_cuda = "CUDAExecutionProvider" in ort.get_available_providers()
    if wanted == "cuda" and not has_cuda:
        raise LoadError(
            "--device cuda: this ONNX Runtime does not support CUDA; install the extra server-gpu,"
            " or use --device cpu"
        )
    if wanted == "cpu" or not has_cuda:
        return "cpu"
    ort.preload_dlls()
    return "cuda"


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
        file: Path,
        device: str = "cpu",
        threads: int = 1,
        watch: RunWatch | None = None,
        owner: str = "",
    ) -> None:
        providers: list[Any] = ["CPUExecutionProvider"]
        if device == "cuda":
            # The default, an exhaustive search for convolution algorithms, repeats for every new shape.
            providers.insert(0, ("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC"}))
        check_files(file)
        try:
            self._session = ort.InferenceSession(str(file), _options(threads), providers=providers)
        except Exception as error:
            raise load_error(file, error) from error
        self.provider: str = self._session.get_providers()[0]
        self.graph = _describe(self._session)
        self._watch, self._owner = watch or RunWatch(), owner
        self._running: set[ort.RunOptions] = set()
        self._terminated = False
        self._bfloat16 = any(
            tensor.onnx_type.endswith("(bfloat16)") for tensor in (*self.graph.inputs, *self.graph.outputs)
        )
        self.output_names = [tensor.name for tensor in self.graph.outputs]
        self.encoder: OnnxSession | None = None  # of a prefill graph: the encoder graph that runs before it

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
        """Run the graph once. Returns the arrays of `outputs`, in their order (None: all outputs).

        Raises:
            ServingError: BAD_INPUT: ONNX Runtime rejects an input.
            RunTooLong: the run took longer than `max_run_s`, and was ended.
            Exception: any other error of ONNX Runtime.
        """
        options = ort.RunOptions()
        run = self._watch.begin(self._owner, options)
        self._running.add(options)
        if self._terminated:
            options.terminate = True
        if sum(array.nbytes for array in inputs.values()) >= memory.LARGE_BYTES:
            self._watch.had_large_run = True
            if self.provider == "CPUExecutionProvider":
                options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        try:
            if self._bfloat16:
                return self._run_values(inputs, outputs, options)
            return self._session.run(outputs, inputs, options)  # type: ignore[no-any-return]
        except ort.capi.onnxruntime_pybind11_state.InvalidArgument as error:
            raise bad_input("inputs", f"{run_fault(error)}; {_REJECTED}") from error
        except Exception as error:
            if run.is_ended and not self._terminated:
                raise RunTooLong(self._owner, run.limit_s) from error
            raise
        finally:
            self._running.discard(options)
            self._watch.done(run)

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

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
        with self._device_scheduler.lease(self._account, math.inf):
            return super().run(inputs, outputs)


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised as exceptions and logged by the engine
    # A spinning thread would take a core from the front end.

    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


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
