"""The one-shot engine: each of its threads acquires a device lease, plans, runs and commits.

queued parts → `RunPlan` → padded inputs → session → outputs → one `Events`

An error in a run fails the requests of that run; the thread goes on.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ... import messages
from ...errors import ServingError, deadline_passed
from ..recorder import OFF
from ..runtime import padding
from ..runtime.batching import Batching, RowMismatch
from ..runtime.device_scheduler import DeviceAccount
from ..runtime.engine_threads import STOPPED, EngineThreads, not_after
from ..runtime.role_outputs import by_role, with_best_labels
from ..runtime.verification import IDLE_S, Recheck, Verifier, shapes_of
from .planner import RunLimits, RunPlan, plan
from .request import QueuedRequest, RequestPart, WaitingQueue, join, split, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from ...model.cost_model import CostModel
    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec
    from ..recorder import RunRecorder
    from ..runtime.device_scheduler import DeviceLease, DeviceScheduler
    from ..runtime.session import OnnxSession

    Array = np.ndarray[Any, Any]

_SHORT_RUN_S = 0.005
"""A run estimated to be as short may be made by the thread that received its request."""

_RUNS_PER_COSTS = 64
"""Runs after which the front end gets the learned costs."""

_COSTS_EVERY_S = 0.1
"""It gets them sooner, but not more often than this, if an estimate was wrong."""


class RunResult(NamedTuple):
    """The result of a run: an answer or error for each part, in order, or one error for all of them."""

    plan: RunPlan
    answers: Sequence[Arrays | ServingError] | None
    error: ServingError | None
    begun: float
    run: messages.Run | None  # None: it was not run


class OneShotEngine:
    """Serves one model version with one thread per instance. All threads share one session, which
    supports concurrent runs.

    `report` is called from those threads, once per run, and from `submit` and `stop`.
    """

    def __init__(
        self,
        spec: ModelSpec,
        session: OnnxSession,
        costs: CostModel,
        device_scheduler: DeviceScheduler,
        report: Callable[[messages.EngineUpdate], None],
        *,
        batching: bool = True,
        niceness: int = 0,
        verify_share: float = 0.0,
        recorder: RunRecorder = OFF,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec, self.costs, self._recorder = spec, costs, recorder.of(spec)
        self._device_scheduler, self._report, self._clock = device_scheduler, report, clock
        self._queue = WaitingQueue()
        self._held: dict[int, QueuedRequest] = {}
        self._learned = 0  # runs since the costs were reported
        self._reported = -math.inf  # when they were
        self._wrong = False  # whether an estimate was wrong since
        self._session = session
        self._batching = Batching.of(spec, report, allowed=batching)
        self._limits = _limits(spec, batching=batching)
        self._account = DeviceAccount(f"{spec.name}/{spec.version}", yields_cpu=niceness > 0)
        self._verifier = Verifier(
            verify_share,
            self._batching,
            self._withdraw,
            self._verified,
            lambda: device_scheduler.lease(self._account, math.inf),
            clock,
        )
        self._threads = EngineThreads(
            self._account.name,
            wait=self._wait,
            step=self._step,
            fail_requests=self._fail_queued,
            sessions=[session],
            report_paused=self._report_paused,
            count=spec.instances,
            niceness=niceness,
        )

    def start(self) -> None:
        self._threads.start()

    def submit(
        self, requests: Sequence[messages.Infer], *, may_run: bool = False
    ) -> Callable[[], None] | None:
        """Queue requests. Each ends with exactly one event, unless it is cancelled.

        Args:
            may_run: the caller's thread has time for a run.

        Returns:
            A run that the caller must make, so that a short request of an idle model waits for no other
            thread.
        """
        run = None
        if may_run and len(requests) == 1 and self._runs_at_once(requests[0]):
            request = self._held[requests[0].key] = QueuedRequest(requests[0])
            step = partial(self._step, whole(request))
            run = partial(self._threads.step_here, step, self._fail_queued)
        else:
            parts: list[RequestPart] = []
            for infer in requests:
                request = self._held[infer.key] = QueuedRequest(infer)
                parts.extend(split(request, self.spec))
            self._queue.put(parts)
        if self._threads.stopped:  # `stop` may have missed these requests
            self._fail_all(STOPPED)
        return run

    def _runs_at_once(self, infer: messages.Infer) -> bool:
        """Whether a request fits into one short run, and nothing else waits or runs."""
        rows, _, size = infer.size
        return (
            not self._held
            and self._queue.is_idle(self.spec.instances)
            and rows <= self.spec.most_rows(size)
            and self.costs.estimate(rows, size) <= _SHORT_RUN_S
        )

    def cancel(self, key: int) -> None:
        """Skip the request if it is still queued; otherwise drop its answer."""
        request = self._held.pop(key, None)
        if request is not None:
            request.cancelled = True

    def in_flight(self) -> int:
        """The number of requests that have neither ended nor been cancelled."""
        return len(self._held)

    def waiting(self) -> int:
        """The number of queued parts of requests."""
        return len(self._queue)

    def stop(self, within_s: float) -> None:
        """Answer queued requests for at most `within_s` seconds, then fail the rest as UNAVAILABLE."""
        self._threads.stop(within_s, self._queue.close)
        self._fail_all(STOPPED)

    # --- on the engine's threads --------------------------------------------------------------------

    def _wait(self) -> bool:
        """Wait for work. Meanwhile, verify the latest shared run."""
        if self._verifier.pending and not self._queue.wait(IDLE_S) and not self._queue.closed:
            self._verifier.verify_pending(self._is_idle)
        return self._queue.wait()

    def _is_idle(self) -> bool:
        return not len(self._queue) and not self._queue.closed and not self._device_scheduler.waiting()

    def _step(self, alone: RequestPart | None = None) -> None:
        """Plan, run and commit: parts of the queue, or one part that is not in it."""
        deadline = self._queue.deadline() if alone is None else alone.accepted + 1.0
        with self._device_scheduler.lease(self._account, deadline, self._queue.claim) as lease:
            if alone is None:
                run_plan = self._plan(lease)
            else:
                run_plan = plan((alone,), self._clock(), self.costs, self._limits)
            results = self._run(run_plan, lease.waited_s)
        self._commit(run_plan, results)
        for result in results:
            self._verify(result)

    def _plan(self, lease: DeviceLease) -> RunPlan:
        limits = self._limits
        if lease.max_run_s is not None:
            limits = limits.bounded(lease.max_run_s)
        plans: list[RunPlan] = []

        def choose(waiting: list[RequestPart]) -> tuple[RequestPart, ...]:
            plans.append(plan(waiting, self._clock(), self.costs, limits))
            return plans[0].removed

        self._queue.take(choose)
        return plans[0]

    def _run(self, run_plan: RunPlan, device_wait_s: float) -> list[RunResult]:
        """Execute the plan. If a batch fails, each of its parts is run again unbatched, so that a request
        that breaks the session fails by itself. If the run has other rows than it was given, so do all
        later runs of the model: each request gets what the graph returns for it alone."""
        if not run_plan.parts:
            return []
        try:
            result = self._execute(run_plan, device_wait_s)
        except RowMismatch as mismatch:
            self._withdraw(mismatch.message)
        else:
            if result.error is None or len(run_plan.parts) == 1:
                return [result]
        results = []
        error: ServingError | None = None
        for part in run_plan.parts:
            alone = _unbatched(part, run_plan)
            if error is None:
                results.append(self._execute(alone, 0.0))
                error = not_after(results[-1].error)
            else:
                results.append(RunResult(alone, None, error, self._clock(), None))
        return results

    def _withdraw(self, reason: str) -> None:
        """Run each request alone from now on."""
        self.spec = replace(self.spec, batched=False)
        self._limits = _limits(self.spec, batching=False)
        self._batching.withdraw(reason)

    def _execute(self, run_plan: RunPlan, device_wait_s: float) -> RunResult:
        """
        Raises:
            RowMismatch: the model is batched, and an output does not have the run's rows.
        """
        spec = self.spec  # another instance may replace it during the run
        begun = stacked = ran = self._clock()
        answers: Sequence[Arrays | ServingError] | None = None
        error = None
        try:
            inputs = padding.stack(spec, run_plan.parts, run_plan.rows, run_plan.lengths)
            names = _requested_outputs(self._session, run_plan.parts)
            stacked = self._clock()
            outputs = self._session.run(inputs, names)
            ran = self._clock()
            by_name = dict(zip(names, outputs, strict=True))
            answers = _answers(spec, by_name, run_plan.parts, run_plan.lengths, run_plan.rows)
        except RowMismatch:
            raise
        except Exception as failure:
            error = self._threads.to_serving_error(failure)
        ended = self._clock()
        run = messages.Run(
            rows=run_plan.rows,
            length=run_plan.size,
            elements=sum([part.rows * part.size for part in run_plan.parts]),
            padded_elements=run_plan.rows * run_plan.size,
            input_s=stacked - begun,
            compute_s=max(ran - stacked, 0.0),
            output_s=ended - max(ran, stacked),
            device_wait_s=device_wait_s,
        )
        return RunResult(run_plan, answers, error, begun, run)

    def _verify(self, result: RunResult) -> None:
        """Compute answers of a shared run again, each alone, now or when the model has nothing to do."""
        run_plan, run, answers, spec = result.plan, result.run, result.answers, self.spec
        parts = run_plan.parts
        if not self._verifier.enabled or run is None or answers is None:
            return
        padded = run_plan.rows > parts[0].rows or run_plan.lengths != parts[0].lengths
        if len(parts) == 1 and not padded:
            return

        def rechecks() -> list[Recheck]:
            return [
                self._recheck(spec, part, answer, run_plan.rows)
                for part, answer in zip(parts, answers, strict=True)
                if not isinstance(answer, ServingError)
            ]

        if self._verifier.is_due(run.compute_s):
            self._verifier.verify(spec, rechecks)
        else:
            self._verifier.keep(spec, rechecks)

    def _recheck(self, spec: ModelSpec, part: RequestPart, answer: Arrays, rows: int) -> Recheck:
        def run(copies: int) -> list[Arrays]:
            parts, names = [part] * copies, list(answer)
            outputs = self._session.run(padding.stack(spec, parts, copies * part.rows, part.lengths), names)
            by_name = dict(zip(names, outputs, strict=True))
            found = _answers(spec, by_name, parts, part.lengths, copies * part.rows)
            return [one for one in found if not isinstance(one, ServingError)]

        copies = max(rows // max(part.rows, 1), 2)
        return Recheck(answer, partial(run, 1), partial(run, copies), shapes_of(part.inputs))

    def _verified(self, answers: int) -> None:
        self._report(messages.Verified(self.spec.name, self.spec.version, answers))

    def _commit(self, run_plan: RunPlan, results: Sequence[RunResult]) -> None:
        events = [event for part in run_plan.expired if (event := self._expire(part)) is not None]
        for result in results:
            for index, part in enumerate(result.plan.parts):
                if (event := self._answer(part, result, index)) is not None:
                    events.append(event)
        for result in results:  # before the answers, so that who has one finds its run
            self._record(result)
        if events or results:
            runs = [result.run for result in results if result.run is not None]
            self._report(
                messages.Events(
                    model=self.spec.name,
                    version=self.spec.version,
                    events=events,
                    runs=runs,
                    sent=self._clock(),
                )
            )
        now = self._clock()
        for result in results:  # after the answers, which callers wait for
            if result.error is None and result.run is not None:
                self._wrong |= self.costs.learn(result.run.rows, result.run.length, result.run.compute_s)
                self.costs.learn_overhead(now - result.begun - result.run.compute_s)
                self._learned += 1
        if self._learned >= _RUNS_PER_COSTS or (self._wrong and now - self._reported >= _COSTS_EVERY_S):
            self._learned, self._reported, self._wrong = 0, now, False
            learned = messages.Costs(self.spec.name, self.spec.version, self.costs.to_dict())
            self._report(learned)

    def _record(self, result: RunResult) -> None:
        parts, run = result.plan.parts, result.run
        if run is not None:
            self._recorder.add(
                "one-shot",
                result.begun,
                sum([part.rows for part in parts]),
                run,
                tuple(dict.fromkeys([part.request.infer.key for part in parts])),
                queue_s=result.begun - min([part.accepted for part in parts]),
                failed=result.error is not None,
            )

    def _report_paused(self, reason: str) -> None:
        self._report(messages.ModelPaused(self.spec.name, self.spec.version, reason))

    def _expire(self, part: RequestPart) -> messages.Event | None:
        return self._end(part.request, error=deadline_passed("while the request waited in the queue"))

    def _answer(self, part: RequestPart, result: RunResult, index: int) -> messages.Event | None:
        """The request's event if this was its last part or the first that failed, else None."""
        request = part.request
        request.started = request.started or result.begun
        if result.run is not None:
            request.compute_s += result.run.compute_s
            request.rows_run += result.run.rows
            request.runs += 1
        if result.answers is None:
            return self._end(request, error=result.error)
        answer = result.answers[index]
        if isinstance(answer, ServingError):
            return self._end(request, error=answer)
        names = request.infer.outputs
        if request.infer.by_role:
            answer = with_best_labels(self.spec, answer, names)
        if request.parts > 1:
            request.answers[part.index] = answer
            if len(request.answers) < request.parts:
                return None
            answer = join(self.spec, request)
        return self._end(request, {name: answer[name] for name in names} if names else answer)

    def _end(
        self, request: QueuedRequest, outputs: Arrays | None = None, error: ServingError | None = None
    ) -> messages.Event | None:
        """The event of a request; None if it was cancelled or has ended before."""
        request.done = True
        if self._held.pop(request.infer.key, None) is None:
            return None
        infer = request.infer
        queue_s = (request.started or self._clock()) - infer.accepted
        rows = request.rows_run / request.runs if request.runs else 0.0
        return messages.Event(
            key=infer.key,
            outputs=outputs,
            error=error,
            timings=messages.RequestTimings(max(queue_s, 0.0), request.compute_s, request.runs, rows),
            length=infer.size.size if infer.size.lengths else 0,
        )

    def _fail_queued(self, error: ServingError) -> None:
        """Fail all requests, and empty the queue: the next step might fail on the same parts."""
        self._queue.take(lambda waiting: waiting)
        self._fail_all(error)

    def _fail_all(self, error: ServingError) -> None:
        events = [
            event for request in list(self._held.values()) if (event := self._end(request, error=error))
        ]
        if events:
            self._report(messages.Events(model=self.spec.name, version=self.spec.version, events=events))


def _limits(spec: ModelSpec, *, batching: bool) -> RunLimits:
    section = spec.manifest.batching
    longest = tuple(length.max for length in spec.manifest.lengths.values())
    return RunLimits(
        section.max_rows,
        section.max_padded_elements if spec.manifest.lengths else sys.maxsize,  # nothing is padded
        patience_s=section.max_queue_ms / 2000,
        batching=batching and spec.batched,
        fixed_shape=(section.max_rows, longest) if spec.manifest.fixed_shape and spec.batched else None,
    )


def _answers(
    spec: ModelSpec,
    outputs: Arrays,
    parts: Sequence[RequestPart],
    lengths: tuple[int, ...],
    rows: int,
) -> Sequence[Arrays | ServingError]:
    """The answer of each part of a run, or why it has none.

    Raises:
        RowMismatch: the model is batched, and an output does not have the run's rows.
    """
    answers = padding.cut(spec, outputs, parts, lengths, rows)
    wanted = [part.request.infer.outputs if part.request.infer.by_role else () for part in parts]
    if wanted.count(()) == len(wanted):
        return answers
    return by_role(spec, outputs, parts, answers, wanted)


def _unbatched(part: RequestPart, run_plan: RunPlan) -> RunPlan:
    return run_plan._replace(
        parts=(part,), expired=(), dropped=(), rows=part.rows, lengths=part.lengths, size=part.size
    )


def _requested_outputs(session: OnnxSession, parts: Sequence[RequestPart]) -> list[str]:
    """The outputs that any part requests."""
    if len(parts) == 1 and (outputs := parts[0].request.infer.outputs):
        return [*dict.fromkeys(outputs)]
    requested = {part.request.infer.outputs for part in parts}
    if () in requested:
        return session.output_names
    names = {name for outputs in requested for name in outputs}
    return [name for name in session.output_names if name in names]
