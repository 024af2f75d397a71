"""The self-test finds out whether a model can be batched and padded."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

import fakes
import numpy as np
import pytest

from lockstep_server.engine.loading import selftest
from lockstep_server.engine.loading.costs import measure_costs
from lockstep_server.engine.loading.manifest_file import parse
from lockstep_server.engine.runtime.device_scheduler import DeviceAccount, DeviceScheduler
from lockstep_server.engine.runtime.session import OnnxSession
from lockstep_server.model.manifest import Manifest
from lockstep_server.model.oneshot_spec import make_spec

if TYPE_CHECKING:
    from pathlib import Path

    from lockstep_server.model.spec import ModelSpec


def opened(folder: Path, graph: Any, text: str = "") -> tuple[OnnxSession, ModelSpec]:
    file = folder / "model.onnx"
    file.write_bytes(graph.SerializeToString())
    session = OnnxSession(file)
    manifest = parse(tomllib.loads(text)) if text else Manifest()
    return session, make_spec("m", 1, session.graph, manifest, "model.toml")


def selftest_result(folder: Path, graph: Any, text: str = "") -> selftest.SelfTestResult:
    return selftest.check(*opened(folder, graph, text))


def floor_below_the_loudest() -> Any:
    """y = log10 of x squared, but at least the largest of the batch minus 8, as in a spectrum of sound."""
    node = fakes.helper.make_node
    return fakes.model(
        [
            node("Mul", ["x", "x"], ["power"]),
            node("Max", ["power", "least"], ["some"]),
            node("Log", ["some"], ["ln"]),
            node("Div", ["ln", "ln10"], ["log"]),
            node("ReduceMax", ["log"], ["loudest"], keepdims=0),
            node("Sub", ["loudest", "eight"], ["floor"]),
            node("Max", ["log", "floor"], ["y"]),
        ],
        [fakes.tensor("x")],
        [fakes.tensor("y")],
        [
            fakes.constant("least", 1e-30, np.float32),
            fakes.constant("ln10", np.log(10), np.float32),
            fakes.constant("eight", 8, np.float32),
        ],
    )


def near_the_largest(datatype: str, much: int) -> Any:
    """y = x, but not more than `much` below the largest of the batch."""
    node = fakes.helper.make_node
    return fakes.model(
        [
            node("Cast", ["x"], ["wide"], to=6),
            node("ReduceMax", ["wide"], ["largest"], keepdims=0),
            node("Sub", ["largest", "much"], ["floor"]),
            node("Max", ["wide", "floor"], ["y"]),
        ],
        [fakes.tensor("x", datatype)],
        [fakes.tensor("y", "INT32")],
        [fakes.constant("much", much, np.int32)],
    )


def cleaned_of_nan() -> Any:
    """y = x, but 0 everywhere if any value of the batch is NaN."""
    node = fakes.helper.make_node
    return fakes.model(
        [
            node("IsNaN", ["x"], ["bad"]),
            node("Cast", ["bad"], ["count"], to=1),
            node("ReduceMax", ["count"], ["any"], keepdims=0),
            node("Cast", ["any"], ["wrong"], to=9),
            node("Where", ["wrong", "zero", "x"], ["y"]),
        ],
        [fakes.tensor("x")],
        [fakes.tensor("y")],
        [fakes.constant("zero", 0, np.float32)],
    )


def strided_mean(kernel: int = 400, stride: int = 160, pad: int = 400) -> Any:
    """y [n, 4] = the mean over the frames of a strided convolution: padding adds frames."""
    node = fakes.helper.make_node
    weights = np.random.default_rng(0).standard_normal((4, 1, kernel))
    return fakes.model(
        [
            node("Unsqueeze", ["x", "one"], ["u"]),
            node("Conv", ["u", "W"], ["c"], kernel_shape=[kernel], strides=[stride], pads=[pad, pad]),
            node("ReduceMean", ["c"], ["y"], axes=[2], keepdims=0),
        ],
        [fakes.tensor("x", shape=("n", "samples"))],
        [fakes.tensor("y", shape=("n", 4))],
        [fakes.constant("one", [1], np.int64), fakes.constant("W", weights, np.float32)],
    )


SAMPLES = """
[lengths.samples]
max = 480000
[inputs.x]
batch_axis = 0
lengths = {1 = "samples"}
[outputs.y]
batch_axis = 0
[batching]
max_padded_elements = 1000000
"""

ROWS = "[inputs.x]\nbatch_axis = 0\n[outputs.y]\nbatch_axis = 0\n"
FAILING: dict[str, tuple[Any, str, str]] = {
    "a model that mixes its rows": (fakes.row_mixer(), "", "not independent"),
    "a time-major model without manifest": (fakes.time_major(), "", "not independent"),
    "a time-major model with the wrong batch axis": (fakes.time_major(), ROWS, "not independent"),
    "a floor relative to the loudest row": (
        floor_below_the_loudest(),
        "",
        "values are of very different size",
    ),
    "a bound relative to the largest row": (
        near_the_largest("INT32", 200),
        "",
        "values are of very different size",
    ),
    "a bound that only the ends of the datatype reach": (
        near_the_largest("INT16", 32_760),
        "",
        "values are of very different size",
    ),
    "a NaN of one row that changes the others": (cleaned_of_nan(), "", "values are of very different size"),
    "rows that are dropped by their values": (fakes.row_dropper(), "", "must have one element per row"),
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
    "a model that fails on random input": (fakes.breaks_on_zero(), "", "one element per row"),
}


@pytest.mark.parametrize("case", FAILING)
def test_it_fails(tmp_path: Path, case: str) -> None:
    graph, text, reason = FAILING[case]
    result = selftest_result(tmp_path, graph, text)
    assert not result.batched
    assert result.reason
    assert reason in result.reason


PADDED: dict[str, tuple[Any, str]] = {
    "a mean over padding": (fakes.mean_over_padding(), fakes.MEAN_MANIFEST),
    "a mean over a mask of the wrong polarity": (
        fakes.masked_mean(), fakes.MASKED_MANIFEST.replace('of = "', 'real = 0\nof = "'),
    ),
    "a mean over frames that short requests do not have": (strided_mean(), SAMPLES),
}  # fmt: skip


@pytest.mark.parametrize("case", PADDED)
def test_a_model_that_padding_changes_is_batched_by_length(tmp_path: Path, case: str) -> None:
    result = selftest_result(tmp_path, *PADDED[case])
    assert (result.batched, result.padded) == (True, False)
    assert "padding changes the answer" in result.reason


def test_a_model_of_one_shape_that_padding_changes_is_not_batched(tmp_path: Path) -> None:
    """Each of its runs is padded, also that of a single request."""
    result = selftest_result(
        tmp_path, fakes.mean_over_padding(), "fixed_shape = true\n" + fakes.MEAN_MANIFEST
    )
    assert not result.batched
    assert "padding changes the answer" in result.reason


@pytest.mark.parametrize("manifest", ["", SAMPLES], ids=["free axis", "named length"])
def test_sizes_are_tried_until_the_graph_accepts_one(tmp_path: Path, manifest: str) -> None:
    """A convolution without padding takes at least as many samples as its kernel has."""
    result = selftest_result(tmp_path, strided_mean(kernel=500, stride=1, pad=0), manifest)
    assert result.batched
    assert result.padded is (not manifest)


def test_an_input_without_a_batch_axis_does_not_prevent_batching(tmp_path: Path) -> None:
    """Such as a sampling rate: the graph takes one of two."""
    node = fakes.helper.make_node
    rate = fakes.model(
        [
            node("Div", ["rate", "thousand"], ["index"]),
            node("Sub", ["index", "eight"], ["place"]),
            node("Gather", ["table", "place"], ["factor"]),
            node("Mul", ["x", "factor"], ["y"]),
        ],
        [fakes.tensor("x"), fakes.tensor("rate", "INT64", ())],
        [fakes.tensor("y")],
        [
            fakes.constant("thousand", 1000, np.int64),
            fakes.constant("eight", 8, np.int64),
            fakes.constant("table", [1, 0, 0, 0, 0, 0, 0, 0, 2], np.float32),
        ],
    )
    assert selftest_result(tmp_path, rate).batched


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
        batched=True, padded=True, deterministic=result.deterministic, max_difference=result.max_difference
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
    costs = measure_costs(session, spec, DeviceScheduler(), DeviceAccount("test"))
    assert 0 < costs.estimate(1, 1) <= costs.estimate(64, 1000)


def test_costs_are_measured_along_an_axis_that_the_manifest_does_not_name(tmp_path: Path) -> None:
    session, spec = opened(tmp_path, strided_mean())
    costs = measure_costs(session, spec, DeviceScheduler(), DeviceAccount("test"))
    assert costs.is_known(25_600)
    assert costs.estimate(1, 80_000) < 1  # seconds; a run takes about a millisecond


def test_a_model_of_one_size_costs_the_same_at_any(tmp_path: Path) -> None:
    session, spec = opened(tmp_path, fakes.identity(shape=("n", 4)))
    costs = measure_costs(session, spec, DeviceScheduler(), DeviceAccount("test"))
    assert costs.estimate(1, 10**6) == pytest.approx(costs.estimate(1, 4))


def test_a_model_that_fails_on_random_input_gets_default_costs(tmp_path: Path) -> None:
    session, spec = opened(tmp_path, fakes.breaks_on_zero())
    costs = measure_costs(session, spec, DeviceScheduler(), DeviceAccount("test"))
    assert costs.estimate(1, 1) > 0
