"""The self-test finds out whether a model can be batched and padded."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

import fakes
import pytest

from lockstep_server.engine.loading import selftest
from lockstep_server.engine.loading.manifest_file import parse
from lockstep_server.engine.runtime.device_scheduler import DeviceAccount, DeviceScheduler
from lockstep_server.engine.runtime.session import OnnxSession
from lockstep_server.model.manifest import Manifest
from lockstep_server.model.spec import ModelSpec, make_spec

if TYPE_CHECKING:
    from pathlib import Path


def opened(folder: Path, graph: Any, text: str = "") -> tuple[OnnxSession, ModelSpec]:
    file = folder / "model.onnx"
    file.write_bytes(graph.SerializeToString())
    session = OnnxSession(file)
    manifest = parse(tomllib.loads(text)) if text else Manifest()
    return session, make_spec("m", 1, session.graph, manifest, "model.toml")


def selftest_result(folder: Path, graph: Any, text: str = "") -> selftest.SelfTestResult:
    return selftest.check(*opened(folder, graph, text))


ROWS = "[inputs.x]\nbatch_axis = 0\n[outputs.y]\nbatch_axis = 0\n"
FAILING: dict[str, tuple[Any, str, str]] = {
    "a model that mixes its rows": (fakes.row_mixer(), "", "not independent"),
    "a time-major model without manifest": (fakes.time_major(), "", "not independent"),
    "a time-major model with the wrong batch axis": (fakes.time_major(), ROWS, "not independent"),
    "a mean over padding": (
        fakes.mean_over_padding(),
        fakes.MEAN_MANIFEST,
        "padding, or the other rows of a batch, change the answer",
    ),
    "a mean over a mask of the wrong polarity": (
        fakes.masked_mean(),
        fakes.MASKED_MANIFEST + "real = false\n",
        "",
    ),
    "axis 0 with different symbols": (
        fakes.model(
            [fakes.helper.make_node("Identity", ["x"], ["y"])],
            [fakes.tensor("x", shape=("n", "m"))],
            [fakes.tensor("y", shape=("k", "m"))],
        ),
        "",
        "axis 0 does not have the same symbol",
    ),
    "an output without a batch axis": (
        fakes.identity(),
        "[inputs.x]\nbatch_axis = 0",
        "the manifest sets no batch_axis for y",
    ),
    "a model that fails on random input": (fakes.breaks_on_zero(), "", "could not run"),
}


@pytest.mark.parametrize("case", FAILING)
def test_it_fails(tmp_path: Path, case: str) -> None:
    graph, text, reason = FAILING[case]
    result = selftest_result(tmp_path, graph, text)
    assert not result.batched
    assert result.reason
    assert reason in result.reason


PASSING: dict[str, tuple[Any, str]] = {
    **{f"identity of {datatype}": (fakes.identity(datatype), "") for datatype in fakes.ONNX_TYPES},
    "a masked mean": (fakes.masked_mean(), fakes.MASKED_MANIFEST),
    "time-major with the right batch axis": (
        fakes.time_major(),
        "[inputs.x]\nbatch_axis = 1\n[outputs.y]\nbatch_axis = 1\n",
    ),
    "ids within their range": (
        fakes.fragile(),
        ROWS.replace("0\n[outputs", "0\nrange = [0, 8]\n[outputs", 1),
    ),
    "an optional input that is left out": (
        fakes.model(
            [fakes.helper.make_node("Mul", ["x", "scale"], ["y"])],
            [fakes.tensor("x"), fakes.tensor("scale", shape=("n", 1))],
            [fakes.tensor("y")],
        ),
        "",
    ),
}


@pytest.mark.parametrize("case", PASSING)
def test_it_passes(tmp_path: Path, case: str) -> None:
    result = selftest_result(tmp_path, *PASSING[case])
    assert result == selftest.SelfTestResult(
        batched=True, deterministic=result.deterministic, max_difference=result.max_difference
    )
    assert result.max_difference <= 1e-4


def test_a_model_with_bit_identical_answers_is_deterministic(tmp_path: Path) -> None:
    assert selftest_result(tmp_path, fakes.identity()).deterministic
    assert selftest_result(tmp_path, fakes.identity()).max_difference == 0


def test_a_difference_within_the_manifests_tolerance_passes_and_is_reported(tmp_path: Path) -> None:
    result = selftest_result(tmp_path, fakes.mean_over_padding(), "tolerance = 100\n" + fakes.MEAN_MANIFEST)
    assert (result.batched, result.deterministic) == (True, False)
    assert result.max_difference > 1e-3


def test_measured_costs_grow_with_the_size_of_a_run(tmp_path: Path) -> None:
    session, spec = opened(tmp_path, fakes.masked_mean(), fakes.MASKED_MANIFEST)
    costs = selftest.measure_costs(session, spec, DeviceScheduler(), DeviceAccount("test"))
    assert 0 < costs.estimate(1, 1) <= costs.estimate(64, 1000)


def test_a_model_that_fails_on_random_input_gets_default_costs(tmp_path: Path) -> None:
    session, spec = opened(tmp_path, fakes.breaks_on_zero())
    costs = selftest.measure_costs(session, spec, DeviceScheduler(), DeviceAccount("test"))
    assert costs.estimate(1, 1) > 0
