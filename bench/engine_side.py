"""The step-wise engine without a front end: the cost of a step, and two scheduling policies.

`python -m bench.engine_side step MODELS ROWS TOP_K TOP_P` prints {"session_us", "outside_us"} of a step.
`python -m bench.engine_side load MODELS RATE SECONDS POLICY` prints {"p50_ms", "p90_ms", "rate"} of a
translator with Multi30k's lengths under Poisson arrivals. POLICY is `iteration` (sequences join between
any two steps) or `request` (a batch runs until its longest sequence ends). Both print JSON.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lockstep_server import messages
from lockstep_server.engine.loading import repository
from lockstep_server.engine.loading.loader import Loader
from lockstep_server.engine.runtime.device import CPU, Device
from lockstep_server.engine.runtime.device_scheduler import DeviceScheduler
from lockstep_server.engine.stepwise.batch import StepBatch
from lockstep_server.engine.stepwise.scheduler import Scheduler

from . import lengths

if TYPE_CHECKING:
    from lockstep_server.engine.stepwise.engine import StepEngine
    from lockstep_server.engine.stepwise.sequence import GenerationSequence

STEPS, ROUNDS = 1500, 5
SLOTS = 64


def open_engine(models: str, name: str, report: Any, device: Device = CPU) -> Any:
    """The step-wise form of a model, with its engine not started."""
    (found,) = repository.find_versions(Path(models), name)
    config = messages.EngineConfig(models=models)
    loaded = Loader(config, device, DeviceScheduler()).load(found, report)
    return loaded[-1]


# --- a step -----------------------------------------------------------------------------------------


def step(models: str, rows: int, top_k: int, top_p: float) -> dict[str, float]:
    """Time per step inside and outside the session in microseconds: medians over the rounds."""
    updates: list[messages.Events] = []
    model = open_engine(models, "shakespeare-char-lstm", updates.append)
    engine: StepEngine = model.engine
    engine.set_flush_interval(0.02)  # as on a busy server
    for index in range(rows):
        request = messages.Generate(
            key=index + 1,
            model=model.spec.name,
            version=1,
            prompt=(5, 6, 7),
            accepted=time.monotonic(),
            max_tokens=10**9,
            temperature=0.8,
            top_k=top_k,
            top_p=top_p,
            seed=index,
        )
        engine.submit(request)
    session = SessionTimer(engine._session)
    _steps(engine, updates, session, 300)
    outside, inside = [], []
    for _ in range(ROUNDS):
        begun = session.begin()
        _steps(engine, updates, session, STEPS)
        took = time.perf_counter() - begun
        inside.append(session.seconds / session.runs * 1e6)
        outside.append((took - session.seconds) / session.runs * 1e6)
    return {"session_us": float(np.median(inside)), "outside_us": float(np.median(outside))}


class SessionTimer:
    """Counts a session's runs and adds up their time."""

    def __init__(self, session: Any) -> None:
        self.seconds, self.runs, self._run = 0.0, 0, session.run
        session.run = self.run

    def begin(self) -> float:
        """Count from 0 again. Returns the time."""
        self.seconds, self.runs = 0.0, 0
        return time.perf_counter()

    def run(self, *given: Any) -> Any:
        begun = time.perf_counter()
        try:
            return self._run(*given)
        finally:
            self.seconds += time.perf_counter() - begun
            self.runs += 1


def _steps(engine: StepEngine, updates: list[messages.Events], session: SessionTimer, count: int) -> None:
    """Step at least `count` times: the engine decides how many steps follow one plan."""
    end = session.runs + count
    while session.runs < end:
        engine._step()
        for events in updates:
            for chunk in events.chunks:
                engine._scheduler.credit(chunk.key, 1)
        updates.clear()


# --- a load -----------------------------------------------------------------------------------------


class RequestLevelScheduler(Scheduler):
    """Admits sequences only when the previous batch has ended completely."""

    def _admit(self, now: float) -> tuple[tuple[GenerationSequence, ...], tuple[GenerationSequence, ...]]:
        return ((), ()) if self.generation.running else super()._admit(now)

    def has_work(self) -> bool:
        return super().has_work() or bool(self.pool.waiting)


def use_request_level_batching(engine: StepEngine) -> None:
    """Make an engine run each batch to its end; all rows are computed until then."""
    engine._scheduler = RequestLevelScheduler(engine._scheduler.limits)
    StepBatch.shrink = lambda *_: None  # type: ignore[method-assign]


def load(models: str, rate: float, seconds: float, policy: str) -> dict[str, float]:
    """Latency and throughput of a translator under Poisson arrivals."""
    ended: dict[int, float] = {}
    waiting: list[int] = []

    def report(events: messages.Events) -> None:
        now = time.monotonic()
        for chunk in events.chunks:
            model.engine.credit(chunk.key, 1)
        waiting.extend(event.key for event in events.events)
        if policy == "iteration" or not events.sequences or not events.sequences.running:
            ended.update(dict.fromkeys(waiting, now))
            waiting.clear()

    model = open_engine(models, "translate-en-fr", report)
    engine: StepEngine = model.engine
    limits = engine._scheduler.limits
    unlimited = type(limits)(SLOTS, 10**6, 10**6, limits.idle_timeout_s, limits.stalled_s)
    engine._scheduler = Scheduler(unlimited)
    if policy == "request":
        use_request_level_batching(engine)
    engine.set_flush_interval(0.02)
    engine.start()
    rng, draw = random.Random(1), np.random.default_rng(1)
    due, begun = time.monotonic(), time.monotonic()
    arrived: dict[int, float] = {}
    for key, (source, target) in enumerate(lengths.multi30k(int(rate * seconds)), 1):
        due += rng.expovariate(rate)
        while (wait := due - time.monotonic()) > 0:
            time.sleep(wait)
        arrived[key] = due
        prompt = tuple(draw.integers(10, 3000, source).tolist())
        request = messages.Generate(
            key=key,
            model=model.spec.name,
            version=1,
            prompt=prompt,
            accepted=due,
            max_tokens=target,
            temperature=0.0,
        )
        engine.submit(request)
    done = threading.Event()
    while len(ended) < len(arrived):
        done.wait(0.005)
    took = max(ended.values()) - begun
    engine.stop(0.1)
    waits = np.array([ended[key] - at for key, at in arrived.items() if at - begun > seconds * 0.1])
    p50, p90 = np.percentile(waits, (50, 90)) * 1000
    return {"p50_ms": float(p50), "p90_ms": float(p90), "rate": len(arrived) / took}


if __name__ == "__main__":
    kind, folder, *rest = sys.argv[1:]
    if kind == "step":
        print(json.dumps(step(folder, int(rest[0]), int(rest[1]), float(rest[2]))))
    else:
        print(json.dumps(load(folder, float(rest[0]), float(rest[1]), rest[2])))
