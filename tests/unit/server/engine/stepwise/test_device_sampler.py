"""Tokens that are sampled on a device are those of the host, however near what is drawn is to an edge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.server import sample_models as specs
from unit.server.engine.stepwise import step_models
from unit.server.engine.stepwise.step_models import kept

from lockstep_server.engine.runtime.device import CPU, Device, DeviceArray
from lockstep_server.engine.runtime.session import OnnxSession
from lockstep_server.engine.runtime.small_graphs import Node, model
from lockstep_server.engine.stepwise import sampler
from lockstep_server.engine.stepwise.device_sampler import DeviceSampler
from lockstep_server.engine.stepwise.sampling_graph import RANKED
from lockstep_server.model.manifest import Manifest, RolesSection, TensorSection
from lockstep_server.model.spec import ModelSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = np.ndarray[Any, Any]

pytestmark = [
    pytest.mark.usefixtures("kept"),
    pytest.mark.parametrize("kept", step_models.PLACES[1:], indirect=True, scope="module"),
]

DECODING = [
    (0.8, 0, 1.0),
    (0.0, 0, 1.0),
    (1.0, 5, 1.0),
    (1.3, 0, 0.9),
    (0.7, 20, 0.5),
    (1.0, 0, 1.0),
    (0.0, 3, 0.5),
]
"""Temperature, top-k and top-p of the rows, in turn."""

_samplers: dict[Any, DeviceSampler] = {}


def sampler_of(
    shape: tuple[Any, ...] = ("n", "v"), batch_axis: int = 0, position: int = -1, datatype: str = "FP32"
) -> DeviceSampler:
    key = kept.device, shape, batch_axis, position, datatype
    scores = specs.tensor("scores", TensorSection(batch_axis, position=position), shape, datatype)
    spec = ModelSpec("m", 1, Manifest(roles=RolesSection(scores="scores")), (), (scores,))
    assert DeviceSampler.can_sample(spec)
    return _samplers.setdefault(key, DeviceSampler(spec, kept.device))


def parameters_of(rows: int, decoding: Sequence[tuple[float, int, float]] = DECODING) -> Any:
    parameters = sampler.SamplingParameters.of(rows)
    for row in range(rows):
        parameters.set(row, *decoding[row % len(decoding)])
    return parameters


def on_device(scores: Array) -> DeviceArray:
    return DeviceArray.of(scores, kept.device)


def left_to_host(found: DeviceSampler, scores: Array, u: Array, parameters: Any) -> Array:
    """The rows that the graph does not decide."""
    undecided: Array = found._sample(on_device(scores), u, parameters) < 0
    return undecided


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([2, 7, 66, 256, 257, 700, RANKED + 500]),
    st.sampled_from([0.0, 1.0, 4.0, 30.0]),
    st.sampled_from([None, 1, 0]),
    st.booleans(),
)
def test_tokens_are_those_of_the_host(seed: int, tokens: int, spread: float, digits: Any, cuts: Any) -> None:
    """Also if scores are equal, or nearly so, and for one token that outweighs all."""
    draw = np.random.default_rng(seed)
    scores = (draw.standard_normal((9, tokens)) * spread).astype(np.float32)
    if digits is not None:
        scores = scores.round(digits)
    scores[draw.random(scores.shape) < 0.1] = -np.inf
    parameters = parameters_of(9, DECODING if cuts else DECODING[:2])
    u = draw.random(9)
    with np.errstate(invalid="ignore"):  # all may be -inf
        found = sampler_of().sample_all(on_device(scores), u, parameters)[0]
        assert found.tolist() == sampler.sample(scores, u, parameters).tolist()


@given(st.integers(0, 2**32 - 1), st.sampled_from([5, 66, 600]))
def test_a_number_at_an_edge_between_tokens_is_left_to_the_host(seed: int, tokens: int) -> None:
    draw = np.random.default_rng(seed)
    scores = draw.standard_normal((40, tokens)).astype(np.float32)
    sums = np.cumsum(np.exp(scores - scores.max(axis=1, keepdims=True)).astype(np.float64), axis=1)
    edges = sums[np.arange(40), draw.integers(0, tokens - 1, 40)] / sums[:, -1]
    u = np.minimum(edges * (1 + draw.integers(-3, 4, 40) * 2.0**-53), 1 - 2.0**-53)
    parameters = parameters_of(40, [(1.0, 0, 1.0)])
    assert left_to_host(sampler_of(), scores, u, parameters).all()
    found = sampler_of().sample_all(on_device(scores), u, parameters)[0]
    assert found.tolist() == sampler.sample(scores, u, parameters).tolist()


@pytest.mark.parametrize("decoding", [(1.0, 2, 1.0), (1.0, 0, 0.6)])
def test_scores_that_could_change_places_are_left_to_the_host(decoding: tuple[float, int, float]) -> None:
    """The second and the third: both are kept, or one of them."""
    scores = np.array([[2.0, 1.0, 1 - 2.0**-21, -1.0], [2.0, 1.0, 1.0, -1.0]], np.float32)
    parameters = parameters_of(2, [decoding])
    undecided = left_to_host(sampler_of(), scores, np.full(2, 0.1), parameters)
    assert undecided.tolist() == [True, False]
    for u in np.linspace(0, 0.999, 50):
        found = sampler_of().sample_all(on_device(scores), np.full(2, u), parameters)[0]
        assert found.tolist() == sampler.sample(scores, np.full(2, u), parameters).tolist()


@pytest.mark.parametrize("tokens", [66, 5000])
def test_few_rows_are_left_to_the_host(tokens: int) -> None:
    draw = np.random.default_rng(1)
    scores = (draw.standard_normal((700, tokens)) * 4).astype(np.float32)
    undecided = left_to_host(sampler_of(), scores, draw.random(700), parameters_of(700))
    assert undecided.mean() < 0.02


def test_rows_that_keep_many_tokens_are_left_to_the_host() -> None:
    tokens = 3 * RANKED
    scores = np.random.default_rng(1).standard_normal((3, tokens)).astype(np.float32)
    parameters = parameters_of(3, [(1.0, RANKED + 5, 1.0), (1.0, 0, 0.99), (1.0, RANKED - 50, 1.0)])
    u = np.full(3, 0.4321)
    assert left_to_host(sampler_of(), scores, u, parameters).tolist() == [True, True, False]
    found = sampler_of().sample_all(on_device(scores), u, parameters)[0]
    assert found.tolist() == sampler.sample(scores, u, parameters).tolist()


def test_scores_that_are_not_finite_have_no_token() -> None:
    scores = np.zeros((4, 5), np.float32)
    scores[0, 3], scores[1, 2], scores[2] = np.nan, np.inf, -np.inf
    for decoding in ((1.0, 0, 1.0), (0.0, 0, 1.0), (1.0, 2, 0.9)):
        parameters = parameters_of(4, [decoding])
        with np.errstate(invalid="ignore"):
            found = sampler_of().sample_all(on_device(scores), np.full(4, 0.3), parameters)[0]
        assert found[:3].tolist() == [-1, -1, -1]
        assert found[3] >= 0


def test_rows_without_a_sequence_are_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = parameters_of(2, [(1.0, 0, 1.0)])
    parameters.clear(1)
    scores = np.array([[0.0, 1.0], [np.nan, 0.0]], np.float32)
    monkeypatch.setattr(DeviceSampler, "_rows", None)
    assert sampler_of().sample_all(on_device(scores), np.full(2, 0.1), parameters)[0].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("shape", "batch_axis", "position"),
    [(("n", "t", "v"), 0, -1), (("t", "n", "v"), 1, 0), (("n", "t", "v"), 0, 1), (("n", "v"), 0, -1)],
)
@pytest.mark.parametrize("datatype", ["FP32", "FP16"])
def test_scores_may_have_positions_and_half_precision(
    shape: tuple[str, ...], batch_axis: int, position: int, datatype: str
) -> None:
    draw, sizes = np.random.default_rng(3), {"n": 40, "t": 3, "v": 30}
    dtype = {"FP32": np.float32, "FP16": np.float16}[datatype]
    scores: Array = draw.standard_normal([sizes[axis] for axis in shape]).astype(dtype)
    parameters, u = parameters_of(40), draw.random(40)
    u[:5] = 0.0  # the host samples these
    found = sampler_of(shape, batch_axis, position, datatype).sample_all(on_device(scores), u, parameters)[0]
    of_host = sampler.next_scores(scores, batch_axis, 40, position)
    assert found.tolist() == sampler.sample(of_host, u, parameters).tolist()


def test_parameters_that_change_count_at_once() -> None:
    scores = np.array([[0.0, 5.0]], np.float32)
    parameters, u = parameters_of(1, [(1.0, 0, 1.0)]), np.array([0.001])
    assert sampler_of().sample_all(on_device(scores), u, parameters)[0].tolist() == [0]
    parameters.set(0, temperature=0)
    assert sampler_of().sample_all(on_device(scores), u, parameters)[0].tolist() == [1]


def test_exponentials_are_as_near_to_each_other_as_the_graph_assumes() -> None:
    x = np.linspace(-87, 0, 2_000_001, dtype=np.float32)
    (of_device,) = OnnxSession(
        model([Node("Exp", ["x"], "y")], {"x": "FP32"}, {"y": "FP32"}), kept.device
    ).run({"x": x})
    exact = np.exp(x.astype(np.float64))
    for found in (np.exp(x), of_device):
        assert (np.abs(found / exact - 1)).max() < 2.0**-21  # 4 units in the last place


def test_models_whose_scores_no_graph_finds_are_sampled_on_the_host() -> None:
    for section, shape, datatype in (
        (TensorSection(None), ("v",), "FP32"),
        (TensorSection(0), ("n", "v"), "FP64"),
        (TensorSection(0), ("n", "t", "b", "v"), "FP32"),
    ):
        scores = specs.tensor("scores", section, shape, datatype)
        spec = ModelSpec("m", 1, Manifest(roles=RolesSection(scores="scores")), (), (scores,))
        assert not DeviceSampler.can_sample(spec)
    assert Device(states="device").sampling
    assert CPU.states == "host"
