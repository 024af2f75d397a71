"""Devices are probed before models load; small graphs move parts of tensors as numpy's indices do."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.server.engine.stepwise.step_models import open_own

from lockstep_server import memory
from lockstep_server.engine.runtime import session as session_module
from lockstep_server.engine.runtime.device import CPU, Device, DeviceArray, choose_device, nodes_elsewhere
from lockstep_server.engine.runtime.session import Bindings, OnnxSession
from lockstep_server.engine.runtime.small_graphs import Node, model, places
from lockstep_server.errors import ErrorCode, LoadError, ServingError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def without_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ONNX Runtime that names CUDA among its providers and cannot start it: no driver, or an old one."""
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("CUDA may work here")
    monkeypatch.setattr(
        ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)
    monkeypatch.setattr(ctypes, "CDLL", fake_driver(None))


def fake_driver(version: int | None) -> Any:
    """What `ctypes.CDLL` does where the driver supports this CUDA version, or where there is none."""

    class Driver:
        def __init__(self, _: str) -> None:
            if version is None:
                raise OSError("libcuda.so.1: cannot open shared object file")

        def cuDriverGetVersion(self, found: Any) -> int:
            found._obj.value = version
            return 0

    return Driver


def test_cuda_without_support_names_the_extra() -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this ONNX Runtime supports CUDA")
    with pytest.raises(LoadError, match="install the extra server-gpu; or use --device cpu"):
        choose_device("cuda")
    assert choose_device("auto") == CPU


@pytest.mark.usefixtures("without_driver")
@pytest.mark.parametrize(
    ("version", "hint"),
    [
        (None, "no driver of NVIDIA"),
        (11080, r"the driver supports CUDA 11\.8, and this ONNX Runtime needs 12\.6; update the driver"),
        (12020, "look for a GPU 3, its driver and the CUDA version"),
    ],
)
def test_a_gpu_that_does_not_start_is_an_error_if_it_was_asked_for(
    version: int | None, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", fake_driver(version))
    monkeypatch.setattr(ort, "cuda_version", "12.6", raising=False)
    with pytest.raises(LoadError, match=hint):
        choose_device("cuda", 3)


@pytest.mark.usefixtures("without_driver")
def test_a_gpu_that_does_not_start_is_a_warning_otherwise(caplog: pytest.LogCaptureFixture) -> None:
    assert choose_device("auto") == CPU
    assert "models run on the CPU, although" in caplog.text
    caplog.clear()
    assert choose_device("cpu", states="device") == Device(states="device")
    assert not caplog.text


def test_the_providers_of_a_gpu_have_its_number_and_limit() -> None:
    (name, options), fallback = Device("cuda", 2, 1 << 30).providers
    assert (name, fallback) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert (options["device_id"], options["gpu_mem_limit"]) == ("2", str(1 << 30))
    assert "gpu_mem_limit" not in Device("cuda").providers[0][1]


def test_outputs_stay_on_the_device_in_new_values_or_in_given_ones() -> None:
    session = OnnxSession(model([Node("Add", ["x", "y"], "z")], {"x": "FP32", "y": "FP32"}, {"z": "FP32"}))
    x, y = DeviceArray.of(np.ones(3, np.float32), CPU), np.arange(3, dtype=np.float32)
    (z,) = session.run({"x": x, "y": y}, ["z"], {"z": None})
    assert (z.shape, z.ndim, z.value.numpy().tolist()) == ((3,), 1, [1, 2, 3])
    (again,) = session.run({"x": z, "y": y}, ["z"], {"z": x})
    assert again.value.data_ptr() == x.value.data_ptr()
    assert x.value.numpy().tolist() == [1, 3, 5]
    (host,) = session.run({"x": z, "y": y}, ["z"], {})
    assert host.tolist() == [1, 3, 5]


SCATTER = {name: model(
    [Node("ScatterND", ["x", "at", "new"], "y")], {"x": name, "at": "INT64", "new": name}, {"y": name}
) for name in ("FP32", "INT64", "BOOL", "FP16")}  # fmt: skip


@given(st.data())
def test_places_are_those_of_numpys_indices(data: Any) -> None:
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True, min_size=1, max_size=2))
    along = {
        axis: np.array(data.draw(st.lists(st.integers(0, shape[axis] - 1), unique=True, min_size=1)))
        for axis in axes
    }
    x = np.arange(np.prod(shape)).reshape(shape)
    expected = x.copy()
    part = np.ix_(*(along.get(axis, np.arange(size)) for axis, size in enumerate(shape)))
    expected[part] += 100
    session = scatter("INT64")
    (found,) = session.run({"x": x, "at": places(shape, along), "new": x[part] + 100})
    np.testing.assert_array_equal(found, expected)


_sessions: dict[str, OnnxSession] = {}


def scatter(datatype: str) -> OnnxSession:
    return _sessions.setdefault(datatype, OnnxSession(SCATTER[datatype]))


@pytest.mark.parametrize("datatype", SCATTER)
def test_small_graphs_move_every_kind_of_element(datatype: str) -> None:
    dtype = {"FP32": np.float32, "INT64": np.int64, "BOOL": np.bool_, "FP16": np.float16}[datatype]
    x: Any = np.zeros((3, 2), dtype)
    (found,) = scatter(datatype).run({"x": x, "at": np.array([[1]]), "new": np.ones((1, 2), dtype)})
    assert found.tolist() == [[0, 0], [1, 1], [0, 0]]


def test_a_graph_that_steps_gives_memory_back_only_when_it_needs_much_less() -> None:
    session = open_own("adder").session
    large = memory.LARGE_BYTES
    assert session._is_to_shrink(large)
    session.steps = True
    sizes = (large, large, 2 * large, large, large // 3, large // 3)
    assert [session._is_to_shrink(size) for size in sizes] == [False, False, False, False, True, False]


def test_a_run_without_enough_memory_on_a_device_is_refused_with_a_time() -> None:
    session = OnnxSession(
        model([Node("Expand", ["x", "shape"], "y")], {"x": "FP32", "shape": "INT64"}, {"y": "FP32"})
    )
    feeds = {"x": np.ones(1, np.float32), "shape": np.array([10**15])}
    with pytest.raises(Exception, match=r"allocate memory|bad.alloc") as failed:
        session.run(feeds)
    assert not isinstance(failed.value, ServingError)
    with pytest.raises(ServingError, match="not enough memory") as caught:
        session.run(feeds, ["y"], {"y": None})
    assert (caught.value.code, caught.value.retry_after_s) == (ErrorCode.OVERLOADED, 1.0)


def test_nodes_that_a_provider_does_not_run_are_counted() -> None:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    graph = model([Node("Add", ["x", "x"], "y"), Node("Relu", ["y"], "z")], {"x": "FP32"}, {"z": "FP32"})
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    assert nodes_elsewhere(session, "CUDAExecutionProvider") == {"Add": 1, "Relu": 1}
    assert not nodes_elsewhere(session, "CPUExecutionProvider")


# --- bindings and CUDA graphs -------------------------------------------------------------------------


def doubling() -> bytes:
    return model([Node("Add", ["x", "x"], "y")], {"x": "FP32"}, {"y": "FP32"})


def test_values_are_bound_once_and_may_be_updated_where_they_are() -> None:
    session, bindings = OnnxSession(doubling()), Bindings()
    x, y = (DeviceArray.of(np.zeros(3, np.float32), CPU) for _ in range(2))
    address = x.value.data_ptr()
    for number in range(3):
        x.update(np.full(3, number, np.float32))
        assert session.run({"x": x}, ["y"], {"y": y}, bindings) == [y]
        assert y.numpy().tolist() == [2 * number] * 3
    assert x.value.data_ptr() == address
    assert len(bindings._bound) == 1
    for _ in range(5):  # other values each time: those of before are let go
        x = DeviceArray.of(np.ones(3, np.float32), CPU)
        session.run({"x": x}, ["y"], {"y": y}, bindings)
    assert len(bindings._bound) <= 2


def test_updates_are_of_one_shape_and_type() -> None:
    x = DeviceArray.of(np.zeros(3, np.float32), CPU)
    assert x.takes(np.ones(3, np.float32))
    assert not x.takes(np.ones(4, np.float32))
    assert not x.takes(np.ones(3, np.int32))
    before = x.numpy()
    x.update(np.ones(3, np.float32))
    assert before.tolist() == [0, 0, 0]


class Opened(ort.InferenceSession):  # type: ignore[misc]
    """A session of the CPU where one of a GPU is asked for, which records the CUDA graph of each run."""

    refuses_graphs = False

    def __init__(self, file: Any, options: Any, providers: Any, **_: Any) -> None:
        if "enable_cuda_graph" in providers[0][1] and self.refuses_graphs:
            raise RuntimeError("all compute graph nodes have not been partitioned to the CUDA EP")
        super().__init__(file, options, providers=["CPUExecutionProvider"])
        self.with_graphs, self.ids = "enable_cuda_graph" in providers[0][1], list[str]()

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def run_with_iobinding(self, iobinding: Any, run_options: Any = None) -> None:
        self.ids.append(run_options.get_run_config_entry("gpu_graph_id"))
        super().run_with_iobinding(iobinding, run_options)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> type[Opened]:
    monkeypatch.setattr(ort, "InferenceSession", Opened)
    monkeypatch.setattr(Opened, "refuses_graphs", False)
    return Opened


def on_fake_gpu(session: OnnxSession, runs: int, bindings: Bindings, places: list[DeviceArray]) -> list[str]:
    """The CUDA graphs of runs that write to each place what they read from the one before."""
    for run in range(runs):
        x, y = places[run % 2], places[(run + 1) % 2]
        session.run({"x": x}, ["y"], {"y": y}, bindings)
    ids: list[str] = session._session.ids[-runs:]
    return ids


@pytest.mark.usefixtures("opened")
def test_each_set_of_addresses_has_a_cuda_graph_after_some_runs() -> None:
    session, bindings = OnnxSession(doubling(), Device("cuda"), captures=True), Bindings()
    places = [DeviceArray.of(np.zeros(3, np.float32), CPU) for _ in range(2)]
    ids = on_fake_gpu(session, 40, bindings, places)
    assert ids[:32] == ["-1"] * 32
    assert ids[32:] == ["1", "2"] * 4
    assert on_fake_gpu(session, 34, Bindings(), places)[32:] == ["1", "2"]  # the addresses count
    more = [DeviceArray.of(np.zeros(3, np.float32), CPU) for _ in range(2)]
    assert on_fake_gpu(session, 34, Bindings(), more)[32:] == ["3", "4"]
    session.run({"x": places[0]}, ["y"], {"y": None})
    assert session._session.ids[-1] == "-1"


@pytest.mark.usefixtures("opened")
def test_a_session_has_a_limited_number_of_cuda_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "_MOST_GRAPHS", 3)
    session = OnnxSession(doubling(), Device("cuda"), captures=True)
    pairs = [[DeviceArray.of(np.zeros(3, np.float32), CPU) for _ in range(2)] for _ in range(2)]
    assert on_fake_gpu(session, 34, Bindings(), pairs[0])[32:] == ["1", "2"]
    assert on_fake_gpu(session, 34, Bindings(), pairs[1])[32:] == ["3", "-1"]


def test_a_graph_that_cannot_be_captured_is_named_at_load_and_runs_without(
    opened: type[Opened], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(opened, "refuses_graphs", True)
    file = tmp_path / "step.onnx"
    file.write_bytes(doubling())
    session = OnnxSession(file, Device("cuda"), captures=True)
    assert not session.captures
    assert not session._session.with_graphs
    assert "step.onnx: its steps launch each kernel" in caplog.text
    assert "not been partitioned to the CUDA EP" in caplog.text
    assert session.run({"x": np.ones(1, np.float32)})[0].tolist() == [2]


@pytest.mark.usefixtures("opened")
def test_cuda_graphs_are_only_for_sessions_that_ask_and_can_be_switched_off() -> None:
    assert not OnnxSession(doubling(), Device("cuda"))._session.with_graphs
    assert not OnnxSession(doubling(), Device("cuda", graphs=False), captures=True)._session.with_graphs
    assert not OnnxSession(doubling(), CPU, captures=True).captures
