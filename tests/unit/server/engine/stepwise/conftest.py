"""Where the models of tests keep the states of sequences. Tests that use `kept` run once for each place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from unit.server.engine.stepwise import step_models

from lockstep_server.engine.runtime.device import CPU, Device, choose_device
from lockstep_server.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", params=step_models.PLACES)
def kept(request: pytest.FixtureRequest) -> Iterator[None]:
    """In arrays of the host, in values of the CPU provider that graphs move, or in values of a GPU."""
    place = {"host": CPU, "device": Device(states="device")}.get(request.param)
    if place is None:
        try:
            place = choose_device("cuda")
        except LoadError as error:
            pytest.skip(f"no GPU: {error}")
    step_models.kept.device = place
    yield
    step_models.kept.device = CPU
