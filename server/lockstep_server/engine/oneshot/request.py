"""A request as the engine sees it, and the queue in which it waits."""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from ...messages import Submit
    from ...model.datatypes import Arrays
    from ...model.sizes import RequestSize
    from ...model.spec import ModelSpec


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """A `Submit` on its way through the engine. It may be split into several `Part`s."""

    submit: Submit
    measure: RequestSize
    tokens: tuple[str, ...] = ()
    cancelled: bool = False
    done: bool = False
    parts: int = 1
    answers: dict[int, Arrays] = field(default_factory=dict)
    started: float = 0.0
    compute_s: float = 0.0
    rows_run: int = 0
    runs: int = 0


@dataclass(slots=True, eq=False)
class RequestPart:
    """Rows of one request that go through one run together."""

    request: QueuedRequest
    index: int
    inputs: Arrays
    rows: int
    lengths: tuple[int, ...]
    size: int  # elements a row
    group: Hashable  # parts may share a run only within a group
    turn: float = 0.0  # the caller's fair place: smaller is sooner
    accepted: float = field(init=False)  # these three are the submit's, at hand for planning
    deadline: float | None = field(init=False)
    priority: int = field(init=False)

    def __post_init__(self) -> None:
        submit = self.request.submit
        self.accepted, self.deadline, self.priority = submit.accepted, submit.deadline, submit.priority


def split(request: QueuedRequest, spec: ModelSpec, inputs: Arrays) -> list[RequestPart]:
    """The request as parts that each fit into a run; one part where the model does not batch."""
    measure = request.measure
    group = group_of(spec, inputs)
    limits = spec.manifest.batching
    most = min(limits.max_rows, max(limits.max_padded_elements // measure.size, 1))
    starts = range(0, measure.rows, most) if spec.batched and measure.rows > most else (0,)
    request.parts = len(starts)
    return [
        RequestPart(
            request,
            index,
            inputs if len(starts) == 1 else _rows(spec, inputs, start, start + most),
            measure.rows if len(starts) == 1 else min(most, measure.rows - start),
            measure.lengths,
            measure.size,
            group,
        )
        for index, start in enumerate(starts)
    ]


def _rows(spec: ModelSpec, inputs: Arrays, start: int, end: int) -> Arrays:
    taken = {}
    for name, array in inputs.items():
        tensor = spec.input(name)
        axis = tensor.spec.batch_axis if tensor else None
        taken[name] = array if axis is None else array[(slice(None),) * axis + (slice(start, end),)]
    return taken


def group_of(spec: ModelSpec, inputs: Arrays) -> Hashable:
    """What two requests must have in common to share a run: the same inputs, and the same sizes on
    every axis that is neither rows nor a named length."""
    if not spec.batched:
        return None
    key = []
    for tensor in spec.inputs:
        array = inputs.get(tensor.name)
        if array is not None:
            free = tensor.spec
            sizes = [
                n
                for axis, n in enumerate(array.shape)
                if axis != free.batch_axis and axis not in free.lengths
            ]
            key.append((tensor.name, *sizes))
    return tuple(key)


def join(spec: ModelSpec, request: QueuedRequest) -> Arrays:
    """The outputs of all parts, in order, as one answer."""
    answers = [request.answers[index] for index in sorted(request.answers)]
    if len(answers) == 1:
        return answers[0]
    axes = {tensor.name: tensor.spec.batch_axis or 0 for tensor in spec.outputs}
    return {name: np.concatenate([answer[name] for answer in answers], axes[name]) for name in answers[0]}


class WaitingQueue:
    """Where parts wait. Three verbs: `put`, `take`, `close`.

    Callers share it fairly by start-time fair queueing (Goyal, Vin, Cheng 1996): a part's turn is
    its caller's last turn plus the elements it asks for, or the queue's own clock where the caller
    has been away. A caller with a thousand requests does not hold up one with a single one.
    """

    def __init__(self) -> None:
        self._inbox: deque[RequestPart] = deque()
        self._waiting: list[RequestPart] = []
        self._planning = threading.Lock()  # among the instances of the model
        self._changed = threading.Condition()
        self._sleepers = 0
        self._closed = False
        self._clock = 0.0
        self._last_turns: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._inbox) + len(self._waiting)

    def put(self, parts: Iterable[RequestPart]) -> None:
        self._inbox.extend(parts)
        self._wake()

    def _wake(self) -> None:
        """Who was woken takes what pays for one run, and wakes the next if there is more."""
        with self._changed:
            if self._sleepers:
                self._changed.notify()

    def wait(self) -> bool:
        """Sleep until something waits. False once the queue is closed and empty."""
        with self._changed:
            self._sleepers += 1
            self._changed.wait_for(lambda: self._inbox or self._waiting or self._closed)
            self._sleepers -= 1
        return bool(self._inbox or self._waiting)

    def take(self, choose: Callable[[list[RequestPart]], Iterable[RequestPart]]) -> None:
        """Remove the parts that `choose` returns of those that wait."""
        with self._planning:
            while self._inbox:
                self._waiting.append(self._place(self._inbox.popleft()))
            chosen = set(choose(self._waiting))
            if chosen:
                self._clock = max(self._clock, *(part.turn for part in chosen))
                self._waiting = [part for part in self._waiting if part not in chosen]
            if not self._waiting:
                self._last_turns.clear()
        if self._waiting:
            self._wake()

    def deadline(self) -> float:
        """When the oldest part wants to run, for the gate; none means a second after it came."""
        for parts in (self._waiting, self._inbox):
            try:
                first = parts[0]
            except IndexError:  # it may have gone since: the event loop and other instances go on
                continue
            return first.accepted + 1.0 if first.deadline is None else first.deadline
        return math.inf

    def close(self) -> None:
        """Let `wait` end once nothing waits any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _place(self, part: RequestPart) -> RequestPart:
        caller = part.request.submit.caller
        part.turn = max(self._clock, self._last_turns.get(caller, 0.0))
        self._last_turns[caller] = part.turn + part.rows * part.size
        return part
