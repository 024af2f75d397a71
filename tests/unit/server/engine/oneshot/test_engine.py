"""Concurrent runs on one session: as many as the model has instances and the device has leases."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from patience import PATIENCE_S
from unit.server import sample_models

from lockstep_server import messages
from lockstep_server.engine.oneshot.engine import OneShotEngine
from lockstep_server.engine.runtime.device_scheduler import DeviceScheduler
from lockstep_server.model.cost_model import CostModel
from lockstep_server.model.spec import measure_request


class MeetingSession:
    """A session whose runs wait until `runs` of them are concurrent, or for `patience_s`."""

    output_names = ("y",)

    def __init__(self, runs: int, patience_s: float) -> None:
        self._barrier = threading.Barrier(runs)
        self._patience_s = patience_s
        self.met = 0

    def run(self, inputs: Any, outputs: Any = None) -> list[Any]:
        try:
            self._barrier.wait(self._patience_s)
            self.met += 1
        except threading.BrokenBarrierError:
            pass
        return [inputs["x"]]

    def terminate(self) -> None: ...


def serve(
    session: Any, instances: int, device_scheduler: DeviceScheduler, requests: int, niceness: int = 1
) -> list[messages.Events]:
    """The reports of an unbatched model for requests submitted together."""
    spec = replace(sample_models.plain(), batched=False, instances=instances)
    reports: list[messages.Events] = []
    answered = threading.Semaphore(0)

    def report(update: messages.EngineUpdate) -> None:
        if not isinstance(update, messages.Events):  # learned costs
            return
        reports.append(update)
        answered.release()

    engine = OneShotEngine(spec, session, CostModel(), device_scheduler, report, niceness=niceness)
    x = np.ones((1, 2), np.float32)
    size = measure_request(spec, {"x": x})
    engine.submit([sample_models.infer(key, size, inputs={"x": x}) for key in range(requests)])
    engine.start()
    for _ in range(requests):
        assert answered.acquire(timeout=PATIENCE_S)
    engine.stop(PATIENCE_S)
    return reports


def test_unbatched_requests_run_concurrently() -> None:
    """They are put into the queue at once, which wakes one thread: each thread must wake the next."""
    session = MeetingSession(3, PATIENCE_S)
    reports = serve(session, 3, DeviceScheduler(3), 3)
    assert session.met == 3
    assert sorted(event.key for events in reports for event in events.events) == [0, 1, 2]


@pytest.mark.parametrize(("instances", "leases", "niceness"), [(1, 3, 1), (3, 1, 1), (3, 2, 0)])
def test_instances_and_leases_limit_concurrent_runs(instances: int, leases: int, niceness: int) -> None:
    session = MeetingSession(2, 0.05)
    reports = serve(session, instances, DeviceScheduler(leases), 3, niceness)
    assert session.met == 0
    assert len(reports) == 3
