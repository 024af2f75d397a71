"""The number of concurrent runs that the loader gives a model, and the cache of what it measured."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fakes
import numpy as np
import pytest
import steps
from unit.server import sample_models

from lockstep_server import messages
from lockstep_server.engine.loading import repository
from lockstep_server.engine.loading.loader import Loader
from lockstep_server.engine.runtime.device import CPU
from lockstep_server.engine.runtime.device_scheduler import DeviceScheduler
from lockstep_server.engine.runtime.session import LeasedSession
from lockstep_server.engine.stepwise.slots import initial_states
from lockstep_server.errors import LoadError
from lockstep_server.model.cost_model import CostModel
from lockstep_server.model.manifest import InstancesSection

if TYPE_CHECKING:
    from collections.abc import Callable

    from lockstep_server.engine.loading.loader import LoadedModel

QUICK = CostModel((1e-5, 0, 0, 1e-6, 0), overhead_s=1e-4)  # 42 us for a row of 32
SLOW = CostModel((1e-5, 0, 0, 1e-5, 0), overhead_s=1e-4)  # 330 us


@pytest.mark.parametrize(
    ("costs", "section", "niceness", "leases", "expected"),
    [
        (SLOW, InstancesSection(), 5, 4, 4),
        (QUICK, InstancesSection(), 5, 4, 1),  # the overhead of runs does not gain from concurrency
        (SLOW, InstancesSection(), 0, 4, 3),  # a core for the front end
        (SLOW, InstancesSection(threads=2), 5, 4, 2),
        (SLOW, InstancesSection(threads=8), 5, 4, 1),
        (SLOW, InstancesSection(count=1), 5, 4, 1),
        (QUICK, InstancesSection(count=3), 5, 4, 3),
        (SLOW, InstancesSection(count=9), 5, 4, 4),  # limited to the leases: admission relies on it
        (SLOW, InstancesSection(), 5, 1, 1),
    ],
)
def test_the_number_of_instances_depends_on_costs_and_leases(
    costs: CostModel, section: InstancesSection, niceness: int, leases: int, expected: int
) -> None:
    spec = sample_models.ragged()
    spec = replace(spec, manifest=replace(spec.manifest, instances=section))

    loader = Loader(messages.EngineConfig(models="models", niceness=niceness), CPU, DeviceScheduler(leases))
    assert loader._instances(spec, costs) == expected


@pytest.fixture
def load(tmp_path: Path) -> Callable[[], list[LoadedModel]]:
    """Loads a one-shot and a step-wise model, with a cache."""
    fakes.write_model(tmp_path / "models", "same", fakes.identity())
    steps.adder(tmp_path / "models")
    config = messages.EngineConfig(models=str(tmp_path / "models"), cache=str(tmp_path / "cache"))
    loader = Loader(config, CPU, DeviceScheduler(1))
    entries = repository.find_models(tmp_path / "models")
    return lambda: [loaded for entry in entries for loaded in loader.load(entry, lambda _: None)]


@pytest.mark.parametrize(
    "nonsense",
    [
        b"",
        b"\xff\x00",
        b"[" * 100_000,
        b"7",
        b"{}",
        b'{"selftest": 3, "costs": 3}',
        b'{"selftest": {}, "costs": {}}',
        b'{"selftest": {"batched": "yes"}, "costs": {"weights": [1], "overhead_s": 0, "ratios": 1}}',
        b'{"selftest": {"batched": true, "reason": 4}, "costs": {}}',
        b'{"selftest": {"batched": true, "colour": "red"}}',
    ],
)
def test_a_damaged_cache_is_measured_again(
    tmp_path: Path, load: Callable[[], list[LoadedModel]], nonsense: bytes
) -> None:
    load()
    files = list((tmp_path / "cache").iterdir())
    assert len(files) == 2
    for file in files:
        file.write_bytes(nonsense)
    assert [loaded.spec.batched for loaded in load()] == [True, True]
    for file in files:
        assert json.loads(file.read_text())["selftest"]["batched"] is True


def test_a_model_whose_steps_do_not_run_is_refused(tmp_path: Path) -> None:
    """Its mask has an element for the step by the manifest, and none in the graph."""
    folder = steps.cache(tmp_path / "models")
    file = folder.parent / "model.toml"
    file.write_text(file.read_text().replace("inputs.mask]", "inputs.mask]\nnew = true"))
    config = messages.EngineConfig(models=str(tmp_path / "models"), cache=str(tmp_path / "cache"))
    (entry,) = repository.find_models(tmp_path / "models")
    for _ in range(2):  # a refusal is not cached
        with pytest.raises(LoadError, match="stepwise: the graph does not run on what task generate feeds"):
            Loader(config, CPU, DeviceScheduler(1)).load(entry, lambda _: None)


def test_a_full_disk_leaves_no_half_file(
    tmp_path: Path, load: Callable[[], list[LoadedModel]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_half(file: Path, text: str) -> None:
        file.write_bytes(text[:9].encode())
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", write_half)
    assert [loaded.spec.batched for loaded in load()] == [True, True]
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cached_result_still_runs_every_size_before_the_model_is_served(
    load: Callable[[], list[LoadedModel]], monkeypatch: pytest.MonkeyPatch
) -> None:
    load()
    sizes: set[int] = set()
    run = LeasedSession.run

    def note_rows(session: LeasedSession, inputs: Any, outputs: Any = None) -> Any:
        sizes.add(len(next(iter(inputs.values()))))
        return run(session, inputs, outputs)

    monkeypatch.setattr(LeasedSession, "run", note_rows)
    load()
    assert {1, 2, 4, 8, 16} <= sizes


# --- states that start from a file ------------------------------------------------------------------

START = [[3.0, 5.0]]


def from_file(root: Path, first: Any) -> list[LoadedModel]:
    """The adder, whose sum starts from an array in a file."""
    folder = steps.adder(root).parent
    (folder / "model.toml").write_text((folder / "model.toml").read_text() + 'file = "start.npy"\n')
    if first is not None:
        np.save(folder / "start.npy", first)
    (entry,) = repository.find_models(root)
    loader = Loader(messages.EngineConfig(models=str(root)), CPU, DeviceScheduler(1))
    return loader.load(entry, lambda _: None)


def test_a_state_starts_from_the_array_in_a_file(tmp_path: Path) -> None:
    (loaded,) = from_file(tmp_path, np.array(START, np.float32))
    assert loaded.spec.batched
    assert initial_states(loaded.spec)["sum"].tolist() == START


@pytest.mark.parametrize(
    ("first", "why"),
    [
        (None, "'start.npy' does not exist"),
        (np.array(START), "has type float64, the state has float32"),
        (np.zeros((1, 3), np.float32), r"has shape \[1, 3\], the state of one sequence has \[1, 2\]"),
        (np.array([{}], object), "is no array"),
    ],
)
def test_a_file_that_does_not_fit_its_state_is_named(tmp_path: Path, first: Any, why: str) -> None:
    with pytest.raises(LoadError, match=rf"stepwise.state\[sum\].file: .*{why}"):
        from_file(tmp_path, first)
