"""The one-shot engine: a thread that takes a turn at the gate, plans, runs and commits.

waiting parts -> Plan -> feeds -> session -> outputs -> one `Events`. It touches neither gRPC nor
asyncio, and it may not die: what goes wrong in a run belongs to the requests in it.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ... import messages
from ...errors import ServingError, deadline_passed, failed, unavailable
from ..runtime import padding
from ..runtime.device_scheduler import DeviceAccount
from .planner import RunLimits, RunPlan, plan
from .request import QueuedRequest, RequestPart, WaitingQueue, join, split

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from ...model.cost_model import CostModel
    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec
    from ..runtime.device_scheduler import DeviceLease, DeviceScheduler
    from ..runtime.session import OnnxSession

    Array = np.ndarray[Any, Any]

log = logging.getLogger(__name__)

_TERMINATE_S = 1.0
"""How long a run may take to end once it has been told to."""

_GONE = unavailable("the model is being unloaded, or the server is stopping")


class RunResult(NamedTuple):
    """What a run gave: answers in the order of its parts, or the error that belongs to them all."""

    plan: RunPlan
    answers: list[Arrays] | None
    error: ServingError | None
    begun: float
    run: messages.Run


class OneShotEngine:
    """Serves one model version with a thread for each of its instances, all of them on one session: a
    session takes any number of runs at one time.

    `report` is called from those threads, once for each run.
    """

    def __init__(
        self,
        spec: ModelSpec,
        session: OnnxSession,
        costs: CostModel,
        device_scheduler: DeviceScheduler,
        report: Callable[[messages.Events], None],
        *,
        batching: bool = True,
        niceness: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec, self.costs = spec, costs
        self._device_scheduler, self._report, self._clock = device_scheduler, report, clock
        self._queue = WaitingQueue()
        self._held: dict[int, QueuedRequest] = {}
        self._stopped = self._terminated = False
        self._session, self._niceness = session, niceness
        self._limits = _limits(spec, batching=batching)
        self._account = DeviceAccount(f"{spec.name}/{spec.version}", yields_cpu=niceness > 0)
        self._threads = [
            threading.Thread(target=self._work, name=f"engine-{spec.name}-{i}", daemon=True)
            for i in range(spec.instances)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def submit(self, requests: Sequence[tuple[QueuedRequest, Arrays]]) -> None:
        """Queue requests. Each ends in exactly one event, unless it is cancelled."""
        parts: list[RequestPart] = []
        for request, inputs in requests:
            self._held[request.submit.key] = request
            parts.extend(split(request, self.spec, inputs))
        self._queue.put(parts)
        if self._stopped:  # it came while the engine was going
            self._end_all(_GONE)

    def cancel(self, key: int) -> bool:
        """Skip the request if it still waits, drop its answer if not. False: it is not here."""
        request = self._held.pop(key, None)
        if request is not None:
            request.cancelled = True
        return request is not None

    def stop(self, within_s: float) -> None:
        """Answer what waits, for `within_s` seconds at most, then fail the rest with UNAVAILABLE."""
        self._queue.close()
        self._join(within_s)
        self._terminated = True
        self._session.terminate()
        self._join(_TERMINATE_S)
        self._stopped = True
        self._end_all(_GONE)

    def _join(self, within_s: float) -> None:
        end = self._clock() + within_s
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(end - self._clock(), 0.0))

    # --- the thread ---------------------------------------------------------------------------------

    def _work(self) -> None:
        _let_others_first(self._niceness)
        while self._queue.wait():
            try:
                self._step()
            except Exception:
                log.exception("%s: a step failed; what it held ends as failed", self._account.name)
                self._queue.take(lambda waiting: waiting)  # or the next step fails of the same
                self._end_all(failed(self._account.name))

    def _step(self) -> None:
        with self._device_scheduler.lease(self._account, self._queue.deadline()) as turn:
            decided = self._plan(turn)
            outcomes = self._run(decided, turn.waited_s)
        self._commit(decided, outcomes)

    def _plan(self, turn: DeviceLease) -> RunPlan:
        limits = replace(self._limits, max_run_s=turn.max_run_s)
        decided: list[RunPlan] = []

        def choose(waiting: list[RequestPart]) -> tuple[RequestPart, ...]:
            decided.append(plan(waiting, self._clock(), self.costs, limits))
            return decided[0].leaving

        self._queue.take(choose)
        return decided[0]

    def _run(self, decided: RunPlan, device_wait_s: float) -> list[RunResult]:
        """One outcome; where the run fails, one for each of its parts, run alone: a request that
        breaks the session breaks it for itself only."""
        if not decided.parts:
            return []
        outcome = self._attempt(decided, device_wait_s)
        if outcome.error is None or len(decided.parts) == 1:
            return [outcome]
        return [self._attempt(_alone(part, decided), 0.0) for part in decided.parts]

    def _attempt(self, decided: RunPlan, device_wait_s: float) -> RunResult:
        begun = fed = ran = self._clock()
        answers, error = None, None
        try:
            feeds = padding.stack(self.spec, decided.parts, decided.rows, decided.lengths)
            wanted = _wanted(self._session, decided.parts)
            fed = self._clock()
            outputs = self._session.run(feeds, wanted)
            ran = self._clock()
            answers = padding.cut(
                self.spec, dict(zip(wanted, outputs, strict=True)), decided.parts, decided.lengths
            )
        except ServingError as refused:
            error = refused
        except Exception:
            error = _GONE
            if not self._terminated:
                error = failed(self._account.name)
                log.exception("%s: a run failed: %s", self._account.name, error.message)
        ended = self._clock()
        elements = sum(part.rows * part.size for part in decided.parts)
        run = messages.Run(
            decided.rows, decided.size, elements, decided.rows * decided.size,
            fed - begun, max(ran - fed, 0.0), ended - max(ran, fed), device_wait_s,
        )  # fmt: skip
        return RunResult(decided, answers, error, begun, run)

    def _commit(self, decided: RunPlan, outcomes: Sequence[RunResult]) -> None:
        events = [event for part in decided.expired if (event := self._expire(part))]
        for outcome in outcomes:
            if outcome.error is None:
                self.costs.learn(outcome.run.rows, outcome.run.length, outcome.run.compute_s)
                self.costs.learn_overhead(self._clock() - outcome.begun - outcome.run.compute_s)
            for index, part in enumerate(outcome.plan.parts):
                if event := self._answer(part, outcome, index):
                    events.append(event)
        if events or outcomes:
            runs = tuple(outcome.run for outcome in outcomes)
            self._report(messages.Events(self.spec.name, self.spec.version, events, runs, sent=self._clock()))

    def _expire(self, part: RequestPart) -> messages.Event | None:
        return self._end(part.request, error=deadline_passed("while the request waited in the queue"))

    def _answer(self, part: RequestPart, outcome: RunResult, index: int) -> messages.Event | None:
        """The request's event, once its last part is there or its first one has failed."""
        request = part.request
        request.started = request.started or outcome.begun
        request.compute_s += outcome.run.compute_s
        request.rows_run += outcome.run.rows
        request.runs += 1
        if outcome.answers is None:
            return self._end(request, error=outcome.error)
        request.answers[part.index] = outcome.answers[index]
        if len(request.answers) < request.parts:
            return None
        wanted, outputs = request.submit.outputs, join(self.spec, request)
        return self._end(request, {name: outputs[name] for name in wanted} if wanted else outputs)

    def _end(
        self, request: QueuedRequest, outputs: Arrays | None = None, error: ServingError | None = None
    ) -> messages.Event | None:
        """The one event of a request; None where its caller has left or it has one already."""
        request.done = True
        if self._held.pop(request.submit.key, None) is None:
            return None
        waited_until = request.started or self._clock()
        timings = messages.RequestTimings(
            max(waited_until - request.submit.accepted, 0.0),
            request.compute_s,
            request.runs,
            request.rows_run / request.runs if request.runs else 0.0,
        )
        length = request.measure.size if request.measure.lengths else 0
        return messages.Event(request.submit.key, outputs, error, timings, length, request.tokens)

    def _end_all(self, error: ServingError) -> None:
        events = [
            event for request in list(self._held.values()) if (event := self._end(request, error=error))
        ]
        if events:
            self._report(messages.Events(self.spec.name, self.spec.version, events))


def _let_others_first(niceness: int) -> None:
    """Lower this thread's priority by so much: what hands requests in goes before, and more of them share
    a run (docs/decisions/0013). Only Linux has a priority for each thread."""
    if sys.platform == "linux" and niceness:
        thread = threading.get_native_id()
        now = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, now + niceness)


def _limits(spec: ModelSpec, *, batching: bool) -> RunLimits:
    bounds = spec.manifest.batching
    longest = tuple(length.max for length in spec.manifest.lengths.values())
    return RunLimits(
        bounds.max_rows,
        bounds.max_padded_elements,
        patience_s=bounds.max_queue_ms / 2000,
        batching=batching and spec.batched,
        fixed=(bounds.max_rows, longest) if spec.manifest.fixed_shape and spec.batched else None,
    )


def _alone(part: RequestPart, decided: RunPlan) -> RunPlan:
    return replace(
        decided, parts=(part,), expired=(), dropped=(), rows=part.rows, lengths=part.lengths, size=part.size
    )


def _wanted(session: OnnxSession, parts: Sequence[RequestPart]) -> list[str]:
    """Every output that some part asks for, in the graph's order."""
    asked: set[str] = set()
    for part in parts:
        if not part.request.submit.outputs:
            return session.output_names
        asked.update(part.request.submit.outputs)
    return [name for name in session.output_names if name in asked]
