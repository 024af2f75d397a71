"""The self-test tells models whose rows are independent from those whose rows are not."""

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
REFUSED: dict[str, tuple[Any, str, str]] = {
    "a model that mixes its rows": (fakes.row_mixer(), "", "not independent"),
    "a time-major model without manifest": (fakes.time_major(), "", "not independent"),
    "a time-major model whose manifest lies": (fakes.time_major(), ROWS, "not independent"),
    "a mean over padding": (fakes.mean_over_padding(), fakes.MEAN_MANIFEST, "padding changes its answers"),
    "a mean over a mask of the wrong polarity": (
        fakes.masked_mean(),
        fakes.MASKED_MANIFEST + "real = false\n",
        "",
    ),
    "axis 0 of another name": (
        fakes.model(
            [fakes.helper.make_node("Identity", ["x"], ["y"])],
            [fakes.tensor("x", shape=("n", "m"))],
            [fakes.tensor("y", shape=("k", "m"))],
        ),
        "",
        "axis 0 is not one symbol",
    ),
    "an output without a batch axis": (
        fakes.identity(),
        "[inputs.x]\nbatch_axis = 0",
        "no batch_axis in the manifest for y",
    ),
    "a model that fails on what is drawn": (fakes.breaks_on_zero(), "", "could not run"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_refuses(tmp_path: Path, what: str) -> None:
    graph, text, why = REFUSED[what]
    found = selftest_result(tmp_path, graph, text)
    assert not found.batched
    assert found.reason
    assert why in found.reason


ACCEPTED: dict[str, tuple[Any, str]] = {
    **{f"identity of {datatype}": (fakes.identity(datatype), "") for datatype in fakes.ONNX_TYPES},
    "a mean over what is real": (fakes.masked_mean(), fakes.MASKED_MANIFEST),
    "time-major with the truth told": (
        fakes.time_major(),
        "[inputs.x]\nbatch_axis = 1\n[outputs.y]\nbatch_axis = 1\n",
    ),
    "ids inside their range": (
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


@pytest.mark.parametrize("what", ACCEPTED)
def test_it_accepts(tmp_path: Path, what: str) -> None:
    found = selftest_result(tmp_path, *ACCEPTED[what])
    assert found == selftest.SelfTestResult(
        batched=True, deterministic=found.deterministic, furthest=found.furthest
    )
    assert found.furthest <= 1e-4


def test_a_model_that_holds_bit_for_bit_is_deterministic(tmp_path: Path) -> None:
    assert selftest_result(tmp_path, fakes.identity()).deterministic
    assert selftest_result(tmp_path, fakes.identity()).furthest == 0


def test_a_difference_within_the_manifests_tolerance_is_accepted_and_told(tmp_path: Path) -> None:
    found = selftest_result(tmp_path, fakes.mean_over_padding(), "tolerance = 100\n" + fakes.MEAN_MANIFEST)
    assert (found.batched, found.deterministic) == (True, False)
    assert found.furthest > 1e-3


def test_costs_are_measured_and_grow_with_the_work(tmp_path: Path) -> None:
    session, spec = opened(tmp_path, fakes.masked_mean(), fakes.MASKED_MANIFEST)
    costs = selftest.measure_costs(session, spec, DeviceScheduler("cpu"), DeviceAccount("test"))
    assert 0 < costs.estimate(1, 1) <= costs.estimate(64, 1000)


def test_a_model_that_takes_no_random_input_gets_costs_to_start_from(tmp_path: Path) -> None:
    session, spec = opened(tmp_path, fakes.breaks_on_zero())
    assert (
        selftest.measure_costs(session, spec, DeviceScheduler("cpu"), DeviceAccount("test")).estimate(1, 1)
        > 0
    )
