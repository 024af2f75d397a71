"""The number of concurrent runs that the loader gives a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from unit.server import sample_models

from lockstep_server import messages
from lockstep_server.engine.loading.loader import Loader
from lockstep_server.engine.runtime.device_scheduler import DeviceScheduler
from lockstep_server.model.cost_model import CostModel
from lockstep_server.model.manifest import InstancesSection

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

    loader = Loader(
        messages.EngineConfig(models="models", niceness=niceness), Path(), "cpu", DeviceScheduler(leases)
    )
    assert loader._instances(spec, costs) == expected
