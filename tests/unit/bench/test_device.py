"""The script for a machine with a GPU keeps what it has, whatever happens to its parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench import device
from bench.device import Measurement, WrongAnswers
from lockstep_server.engine.runtime.device import CPU, Device

if TYPE_CHECKING:
    from collections.abc import Iterator

PARTS = ("answers", "bare_loop", "one_shot", "steps", "sampling", "forms")


def measured(monkeypatch: pytest.MonkeyPatch, minutes: float = 10, **wrong: Exception) -> Any:
    """A measurement with parts of one figure each, of which some fail after it."""

    def part(name: str) -> Any:
        def figures(_: Measurement) -> Iterator[dict[str, Any]]:
            yield {"value": 1}
            if name in wrong:
                raise wrong[name]

        figures.__name__ = name
        return figures

    for name in PARTS:
        monkeypatch.setattr(Measurement, name, part(name))
    return Measurement(CPU, Path(), quick=True, minutes=minutes)


def test_the_parts_after_one_that_fails_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    found = list(measured(monkeypatch, steps=RuntimeError("CUDA error 2")).figures())
    assert [figure["part"] for figure in found if "value" in figure] == [
        name.replace("_", " ") for name in PARTS
    ]
    assert [figure for figure in found if "error" in figure] == [
        {"part": "steps", "error": "RuntimeError: CUDA error 2"}
    ]


def test_nothing_is_measured_after_wrong_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = measured(monkeypatch, answers=WrongAnswers("outputs differ")).figures()
    assert next(figures) == {"part": "answers", "value": 1}
    with pytest.raises(WrongAnswers):
        next(figures)


def test_it_stops_when_its_minutes_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    first, last = measured(monkeypatch, minutes=-1).figures()
    assert first == {"part": "answers", "value": 1}
    assert "minutes are over" in last["error"]


def test_cuda_graphs_are_a_way_of_a_gpu_only() -> None:
    ways = {name: Measurement(Device(name), Path(), quick=True)._ways() for name in ("cpu", "cuda")}
    assert list(ways["cuda"]) == list(device.WAYS)
    assert list(ways["cpu"]) == list(device.WAYS)[:-1]
    assert {one.name for one in ways["cuda"].values()} == {"cuda"}
    assert [one.captures for one in ways["cuda"].values()][-1]
