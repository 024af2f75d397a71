"""How many runs of a model go on at one time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from unit.server import made

from lockstep_server import port
from lockstep_server.loading import Loader
from lockstep_server.models.costs import CostModel
from lockstep_server.models.gate import Gate
from lockstep_server.models.manifest import Instances

QUICK = CostModel((1e-5, 0, 0, 1e-6, 0), overhead_s=1e-4)  # 42 us for a row of 32
SLOW = CostModel((1e-5, 0, 0, 1e-5, 0), overhead_s=1e-4)  # 330 us


@pytest.mark.parametrize(
    ("costs", "said", "niceness", "permits", "expected"),
    [
        (SLOW, Instances(), 5, 4, 4),
        (QUICK, Instances(), 5, 4, 1),  # what goes around its runs would only be shared by more threads
        (SLOW, Instances(), 0, 4, 3),  # a core for the front end
        (SLOW, Instances(threads=2), 5, 4, 2),
        (SLOW, Instances(threads=8), 5, 4, 1),
        (SLOW, Instances(count=1), 5, 4, 1),
        (QUICK, Instances(count=3), 5, 4, 3),
        (SLOW, Instances(count=9), 5, 4, 4),  # the door counts on those that can run
        (SLOW, Instances(), 5, 1, 1),
    ],
)
def test_instances_are_as_many_as_pay(
    costs: CostModel, said: Instances, niceness: int, permits: int, expected: int
) -> None:
    card = made.ragged()
    card = replace(card, manifest=replace(card.manifest, instances=said))
    loader = Loader(port.HostConfig("models", niceness=niceness), Path(), "cpu", Gate("cpu", permits))
    assert loader._instances(card, costs) == expected
