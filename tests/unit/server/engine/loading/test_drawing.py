"""Requests whose sizes the server chooses are not larger than it can afford."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from unit.server.sample_models import tensor

from lockstep_server.engine.loading import costs, drawing
from lockstep_server.engine.loading.drawing import MOST_ELEMENTS, Drawing
from lockstep_server.engine.runtime import padding
from lockstep_server.engine.runtime.device_scheduler import DeviceAccount, DeviceScheduler
from lockstep_server.model.manifest import LengthSection, Manifest, TensorSection
from lockstep_server.model.spec import ModelSpec

FREE = tensor("x", TensorSection(None), (None, "m", "k"))
SQUARE = tensor("x", TensorSection(0, {1: "words", 2: "words"}), ("b", "w", "w"))


class QuickSession:
    """Takes no time, whatever it is given; a graph that passes its input on is like that."""

    def run(self, inputs: dict[str, Any], outputs: Any = None) -> list[Any]:
        return [inputs["x"]]


def spec(x: Any, **lengths: int) -> ModelSpec:
    manifest = Manifest(lengths={name: LengthSection(most) for name, most in lengths.items()}, from_file=True)
    return ModelSpec("m", 1, manifest, (x,), (x,), batched=True)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Elements of all drawn tensors. None is really drawn, as a fault here would take all memory."""
    sizes: list[int] = []

    def note(_: Any, shape: list[int], *__: Any) -> Any:
        sizes.append(math.prod(shape))
        return np.broadcast_to(np.float32(1), shape)

    monkeypatch.setattr(drawing, "_draw", note)
    monkeypatch.setattr(padding, "stack", lambda _, requests, *__: requests[0].inputs)
    return sizes


@pytest.mark.parametrize("one", [spec(FREE), spec(SQUARE, words=200_000)])
def test_costs_are_measured_with_sizes_that_memory_holds(one: ModelSpec, drawn: list[int]) -> None:
    session: Any = QuickSession()
    costs.measure_costs(session, one, DeviceScheduler(1), DeviceAccount("m"))
    assert 96 <= max(drawn) <= MOST_ELEMENTS


def test_sizes_that_a_graph_accepts_are_searched_among_those(drawn: list[int]) -> None:
    made = Drawing(spec(FREE), np.random.default_rng(1))

    def refuse() -> None:
        made.inputs(1, ())
        raise RuntimeError

    with pytest.raises(RuntimeError):
        made.settle(refuse)
    assert 16 <= max(drawn) <= MOST_ELEMENTS
