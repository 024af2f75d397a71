"""Devices are probed before models load; small graphs move parts of tensors as numpy's indices do."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.server.engine.stepwise.step_models import open_own

from lockstep_server import memory
from lockstep_server.engine.runtime.session import (
    CPU,
    Device,
    DeviceArray,
    OnnxSession,
    choose_device,
    nodes_elsewhere,
)
from lockstep_server.engine.runtime.small_graphs import Node, model, places
from lockstep_server.errors import ErrorCode, LoadError, ServingError


@pytest.fixture
def without_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ONNX Runtime that names CUDA among its providers and cannot start it: no driver, or an old one."""
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("CUDA may work here")
    monkeypatch.setattr(
        ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)


def test_cuda_without_support_names_the_extra() -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this ONNX Runtime supports CUDA")
    with pytest.raises(LoadError, match="install the extra server-gpu; or use --device cpu"):
        choose_device("cuda")
    assert choose_device("auto") == CPU


@pytest.mark.usefixtures("without_driver")
def test_a_gpu_that_does_not_start_is_an_error_if_it_was_asked_for() -> None:
    with pytest.raises(LoadError, match="GPU 3, its driver and the CUDA version"):
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
