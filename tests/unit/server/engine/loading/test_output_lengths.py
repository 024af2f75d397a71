"""The lengths of outputs that a manifest computes are those of the graph, or loading says what they are."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

import frames
import numpy as np
import pytest

from lockstep_server.engine.loading import selftest
from lockstep_server.engine.loading.manifest_file import parse
from lockstep_server.engine.loading.output_lengths import check_output_lengths, hint
from lockstep_server.engine.runtime import padding
from lockstep_server.engine.runtime.session import OnnxSession
from lockstep_server.errors import LoadError, ServingError
from lockstep_server.model.oneshot_spec import make_spec
from lockstep_server.model.spec import ModelSpec, measure_request

if TYPE_CHECKING:
    from pathlib import Path


def opened(folder: Path, graph: Any, length: str) -> tuple[OnnxSession, ModelSpec]:
    file = folder / "model.onnx"
    file.write_bytes(graph.SerializeToString())
    session = OnnxSession(file)
    manifest = parse(tomllib.loads(frames.STRIDED.replace("LENGTH", length)))
    return session, make_spec("m", 1, session.graph, manifest, "model.toml")


@pytest.mark.parametrize(
    ("kernel", "stride", "formula"),
    [(10, 5, "(samples - 10) // 5 + 1"), (400, 320, "(samples - 400) // 320 + 1"), (5, 5, "samples // 5")],
)
def test_a_strided_model_is_batched_and_padded(
    tmp_path: Path, kernel: int, stride: int, formula: str
) -> None:
    session, spec = opened(tmp_path, frames.strided(kernel, stride), formula)
    check_output_lengths(session, spec, "model.toml")
    result = selftest.check(session, spec)
    assert (result.batched, result.padded, result.reason) == (True, True, "")


def test_the_self_test_of_a_strided_model_pads_its_frames(tmp_path: Path) -> None:
    """Each frame of this model knows the number of frames, so padding changes them."""
    session, spec = opened(tmp_path, frames.strided(400, 320, counts=True), "(samples - 400) // 320 + 1")
    result = selftest.check(session, spec)
    assert result.batched
    assert not result.padded
    assert "padding changes the answer" in result.reason


@pytest.mark.parametrize(
    ("length", "seen"),
    [
        ("samples // 5", "'samples // 5' gives 3"),
        ("samples / 5", "not an integer"),
        ("1 // (samples - samples)", "divides by zero"),
    ],
)
def test_a_wrong_formula_is_refused_with_one_that_fits(tmp_path: Path, length: str, seen: str) -> None:
    session, spec = opened(tmp_path, frames.strided(10, 5), length)
    with pytest.raises(LoadError) as raised:
        check_output_lengths(session, spec, "model.toml")
    for words in ("model.toml: outputs.y.lengths", "samples = 1", seen, '{1 = "(samples - 5) // 5"}'):
        assert words in str(raised.value)


def test_a_name_that_should_be_a_formula_gets_a_hint(tmp_path: Path) -> None:
    session, spec = opened(tmp_path, frames.strided(10, 5), "samples")
    check_output_lengths(session, spec, "model.toml")
    assert not selftest.check(session, spec).batched
    assert hint(session, spec) == 'these sizes fit outputs.y.lengths = {1 = "(samples - 5) // 5"}'


def test_a_batch_is_cut_by_the_formula(tmp_path: Path) -> None:
    session, spec = opened(tmp_path, frames.strided(10, 5), "(samples - 10) // 5 + 1")
    rng = np.random.default_rng(0)
    inputs = [{"x": rng.standard_normal((1, size)).astype(np.float32)} for size in (10, 99, 57)]
    requests = [selftest.Request(one, 1, measure_request(spec, one).lengths) for one in inputs]
    (run,) = session.run(padding.stack(spec, requests, 3, (99,)))
    spec = ModelSpec(spec.name, 1, spec.manifest, spec.inputs, spec.outputs, batched=True)
    answers = padding.cut(spec, {"y": run}, requests, (99,))
    for request, answer in zip(requests, answers, strict=True):
        (alone,) = session.run(request.inputs)
        assert answer["y"].shape == alone.shape
        assert np.allclose(answer["y"], alone, atol=1e-5)


def test_an_input_of_which_no_element_is_made_is_refused(tmp_path: Path) -> None:
    _, spec = opened(tmp_path, frames.strided(10, 5), "(samples - 10) // 5 + 1")
    with pytest.raises(ServingError, match=r"samples is 9: the output 'y' would have 0 elements") as raised:
        measure_request(spec, {"x": np.zeros((1, 9), np.float32)})
    assert raised.value.field == "x"
