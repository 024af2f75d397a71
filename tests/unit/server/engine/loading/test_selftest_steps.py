"""The self-test of step-wise models: batching changes no answer, and all graphs of a model agree."""

from __future__ import annotations

import tempfile
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fakes
import numpy as np
import pytest
import steps
from onnx import helper, numpy_helper
from unit.server.engine.stepwise.step_models import StepModel, open_folder, open_model

from lockstep_server.engine.loading import selftest_steps
from lockstep_server.engine.loading.manifest_file import parse
from lockstep_server.engine.loading.selftest_steps import StepSelfTestResult
from lockstep_server.engine.runtime.session import OnnxSession
from lockstep_server.model.oneshot_spec import make_spec

if TYPE_CHECKING:
    from onnx import ModelProto

    from lockstep_server.model.spec import ModelSpec


def checked(model: StepModel, oneshot: tuple[ModelSpec, OnnxSession] | None = None) -> StepSelfTestResult:
    return selftest_steps.check(model.spec, model.session, model.prefill_session, oneshot)


def written(manifest: str, **graphs: ModelProto) -> StepModel:
    with tempfile.TemporaryDirectory() as folder:
        files = {f"{name}.onnx": graph for name, graph in graphs.items()}
        return open_folder(steps.write(Path(folder), "m", manifest, files, steps.characters()))


def changed(graph: ModelProto, name: str, change: Any) -> ModelProto:
    """Change one weight of the graph."""
    for weight in graph.graph.initializer:
        if weight.name == name:
            weight.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(weight)), name))
            return graph
    raise AssertionError(name)


def summing(*nodes: Any, outputs: tuple[Any, ...] = ()) -> ModelProto:
    """A step graph of these nodes: x, sum_in [n, 2] -> y, sum_out."""
    return fakes.model(
        nodes,
        [fakes.tensor("x", shape=("n", 2)), fakes.tensor("sum_in", shape=("n", 2))],
        outputs or (fakes.tensor("y", shape=("n", 2)), fakes.tensor("sum_out", shape=("n", 2))),
        [fakes.constant("zero", [0], np.int64)],
    )


SUM = steps.SUM.format(slots=8, idle_s=60)
ADD = helper.make_node("Add", ["sum_in", "x"], ["sum_out"])
MEAN = helper.make_node("ReduceMean", ["sum_out"], ["mean"], axes=[0], keepdims=1)


# --- batched and unbatched --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["language", "forced", "translator", "cache", "alone", "adder"])
def test_correct_models_are_deterministic(kind: str) -> None:
    found = checked(open_model(kind))
    assert (found.batched, found.deterministic, found.reason, found.disagreement) == (True, True, "", "")
    assert found.keeps_elements == (kind in ("cache", "alone"))


def test_a_step_that_changes_earlier_elements_of_its_cache_is_found(tmp_path: Path) -> None:
    found = checked(open_folder(steps.cache(tmp_path, fades=True)))
    assert (found.batched, found.reason, found.keeps_elements) == (True, "", False)


def test_outputs_that_mix_rows_are_found() -> None:
    mixer = summing(ADD, MEAN, helper.make_node("Sub", ["sum_out", "mean"], ["y"]))
    found = checked(written(SUM, step=mixer))
    assert not found.batched
    assert "'y'" in found.reason
    assert "in a batch" in found.reason


def test_states_that_mix_rows_are_found_in_later_steps() -> None:
    """The output of the first step is still right."""
    mixer = summing(
        helper.make_node("Add", ["sum_in", "x"], ["y"]),
        helper.make_node("ReduceMean", ["y"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Add", ["y", "mean"], ["sum_out"]),
    )
    assert not checked(written(SUM, step=mixer)).batched


def test_values_of_very_different_size_show_that_rows_are_mixed() -> None:
    """y = the sum, but at least the largest of the batch minus 100."""
    floor = summing(
        ADD,
        helper.make_node("ReduceMax", ["sum_out"], ["largest"], keepdims=0),
        helper.make_node("Sub", ["largest", "much"], ["floor"]),
        helper.make_node("Max", ["sum_out", "floor"], ["y"]),
    )
    floor.graph.initializer.append(fakes.constant("much", 100, np.float32))
    assert not checked(written(SUM, step=floor)).batched


def test_a_cache_without_a_mask_is_not_padded() -> None:
    found = checked(written(steps.UNMASKED, step=steps.unmasked_step()))
    assert (found.batched, found.unpadded) == (True, "past")
    assert "count their elements" in found.reason


def test_a_mask_that_the_graph_ignores_shows_that_its_cache_must_not_be_padded() -> None:
    graph = steps.unmasked_step()
    graph.graph.input.append(fakes.tensor("mask", "BOOL", ("n", "p")))
    found = checked(written(steps.CACHE, step=graph))
    assert (found.batched, found.unpadded) == (True, "past")
    assert "padding changes the answer: output 'logits' of step 1 " in found.reason


def test_prompts_that_padding_changes_run_one_by_one() -> None:
    """The source is read by a convolution, which reads the padding after a shorter one."""
    model = written(steps.TRANSLATE, step=steps.translator_step(), prefill=steps.blurred_prefill())
    found = checked(model)
    assert (found.batched, found.prefill_batched) == (True, False)
    assert "padding changes the answer" in found.prefill_reason
    spec = selftest_steps.apply_result(model.spec, found)
    assert "prompts are not batched" in spec.notice
    assert spec.prefill is not None
    assert not spec.prefill.batched


def test_sizes_of_free_axes_are_tried_until_the_graph_accepts_one() -> None:
    """A convolution over 64 samples takes at least as many."""
    chunks = fakes.model(
        [
            helper.make_node("Unsqueeze", ["x", "one"], ["u"]),
            helper.make_node("Conv", ["u", "W"], ["c"], kernel_shape=[64]),
            helper.make_node("ReduceMean", ["c"], ["mean"], axes=[2], keepdims=0),
            helper.make_node("Add", ["sum_in", "mean"], ["sum_out"]),
            helper.make_node("Identity", ["sum_out"], ["y"]),
        ],
        [fakes.tensor("x", shape=("n", "samples")), fakes.tensor("sum_in", shape=("n", 2))],
        [fakes.tensor("y", shape=("n", 2)), fakes.tensor("sum_out", shape=("n", 2))],
        [fakes.constant("one", [1], np.int64), fakes.constant("W", np.ones((2, 1, 64)) / 64, np.float32)],
    )
    found = checked(written(SUM, step=chunks))
    assert (found.batched, found.reason) == (True, "")


def test_a_mask_of_the_wrong_polarity_is_found() -> None:
    manifest = steps.TRANSLATE.replace('generated = "mask"', 'generated = "mask"\nreal = 0')
    found = checked(written(manifest, step=steps.translator_step(), prefill=steps.translator_prefill()))
    assert found.unpadded == "source"
    assert "padding changes the answer" in found.reason


def test_a_model_that_differs_within_the_tolerance_is_batched_but_not_deterministic() -> None:
    """Its answers depend on the number of rows, a little."""
    dusty = summing(
        ADD,
        helper.make_node("Shape", ["x"], ["rows"], end=1),
        helper.make_node("Cast", ["rows"], ["count"], to=1),
        helper.make_node("Mul", ["count", "tiny"], ["dust"]),
        helper.make_node("Add", ["sum_out", "dust"], ["y"]),
    )
    dusty.graph.initializer.append(fakes.constant("tiny", [1e-6], np.float32))
    found = checked(written(SUM, step=dusty))
    assert (found.batched, found.deterministic) == (True, False)


def test_a_model_without_a_batch_axis_is_not_batched() -> None:
    single = summing(ADD, helper.make_node("ReduceSum", ["sum_out"], ["y"], keepdims=0), outputs=(
        fakes.tensor("y", shape=()), fakes.tensor("sum_out", shape=("n", 2)),
    ))  # fmt: skip
    found = checked(written(SUM, step=single))
    assert not found.batched
    assert "batch_axis" in found.reason


def test_a_model_that_fails_on_random_input_is_reported_and_raises_nothing() -> None:
    broken = summing(
        ADD,
        helper.make_node("Cast", ["x"], ["near"], to=7),
        helper.make_node("Sub", ["near", "far"], ["index"]),
        helper.make_node("Gather", ["table", "index"], ["y"]),
    )
    broken.graph.initializer.append(fakes.constant("far", [10**6], np.int64))
    broken.graph.initializer.append(fakes.constant("table", [1.0], np.float32))
    found = checked(written(SUM, step=broken))
    assert not found.batched
    assert "could not run" in found.reason


# --- steps and whole sequences ----------------------------------------------------------------------


def test_a_prefill_graph_that_disagrees_with_the_steps_is_reported() -> None:
    worse = changed(steps.language_prefill(), "O", lambda weight: weight * 1.1)
    found = checked(written(steps.LANGUAGE + steps.PREFILL, step=steps.language_step(), prefill=worse))
    assert found.batched
    assert "the prefill graph differs from 1 steps" in found.disagreement
    assert "'logits'" in found.disagreement


def test_a_prefill_graph_that_disagrees_after_the_first_element_is_reported() -> None:
    worse = changed(steps.language_prefill(), "R", lambda weight: weight * 1.5)
    found = checked(written(steps.LANGUAGE + steps.PREFILL, step=steps.language_step(), prefill=worse))
    assert "the prefill graph differs from 2 steps" in found.disagreement


def test_graphs_are_compared_within_the_limits_of_the_model() -> None:
    manifest = (steps.LANGUAGE + steps.PREFILL).replace("max = 64", "max = 8")
    model = written(manifest, step=steps.language_step(), prefill=steps.language_prefill())
    assert checked(model).disagreement == ""


ONESHOT = """
[lengths.prompt]
max = 64
[inputs.tokens]
batch_axis = 0
lengths = {1 = "prompt"}
range = [0, 21]
[inputs.lengths]
batch_axis = 0
generated = "lengths"
of = "prompt"
[outputs.logits]
batch_axis = 0
[outputs.h0]
batch_axis = 1
[outputs.c0]
batch_axis = 1
[roles]
input = "tokens"
scores = "logits"
"""


def oneshot(folder: Path, graph: ModelProto) -> tuple[ModelSpec, OnnxSession]:
    file = folder / "model.onnx"
    file.write_bytes(graph.SerializeToString())
    session = OnnxSession(file)
    return make_spec("m", 1, session.graph, parse(tomllib.loads(ONESHOT)), "model.toml"), session


def test_a_oneshot_graph_that_agrees_is_not_reported(tmp_path: Path) -> None:
    oneshot_model = oneshot(tmp_path, steps.language_prefill())
    found = checked(open_model("forced"), oneshot_model)
    assert (found.batched, found.deterministic, found.disagreement) == (True, True, "")


def test_a_oneshot_graph_that_disagrees_is_reported(tmp_path: Path) -> None:
    oneshot_model = oneshot(
        tmp_path, changed(steps.language_prefill(), "E", lambda weight: weight[::-1].copy())
    )
    found = checked(open_model("forced"), oneshot_model)
    assert found.batched
    assert "the one-shot graph differs" in found.disagreement


def test_a_oneshot_graph_that_cannot_run_is_reported_and_raises_nothing(tmp_path: Path) -> None:
    oneshot_model = oneshot(tmp_path, changed(steps.language_prefill(), "E", lambda weight: weight[:1]))
    found = checked(open_model("forced"), oneshot_model)
    assert found.batched
    assert "could not be compared" in found.disagreement


# --- the spec with the result -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "notice"),
    [
        (StepSelfTestResult(batched=True, prefill_batched=True, deterministic=True), ""),
        (StepSelfTestResult(batched=True, prefill_reason="they mix"), "prompts are not batched: they mix"),
        (StepSelfTestResult(batched=False, reason="they mix"), "sequences are not batched: they mix"),
        (
            StepSelfTestResult(batched=True, padding_invariant=True, disagreement="prefill differs"),
            "prefill differs",
        ),
        (
            StepSelfTestResult(batched=False, reason="they mix", disagreement="it differs"),
            "sequences are not batched: they mix; it differs",
        ),
    ],
)
def test_the_result_is_applied_to_the_spec(found: StepSelfTestResult, notice: str) -> None:
    before = replace(open_model("language").spec, batched=False, deterministic=False)
    spec = selftest_steps.apply_result(before, found)
    assert (spec.batched, spec.deterministic, spec.notice) == (found.batched, found.deterministic, notice)
    assert spec.padding_invariant is found.padding_invariant
    assert spec.prefill is not None
    assert spec.prefill.batched is found.prefill_batched
