"""Requests in the one-shot engine, and the queue in which they wait.

`Infer` → `QueuedRequest` → `split` → `RequestPart`s in the `WaitingQueue` → runs → `join` → the answer
"""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

from ...fair_queueing import FairQueueing
from ..runtime import padding
from ..runtime.device_scheduler import Claim

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from ...messages import Infer
    from ...model.datatypes import Arrays
    from ...model.spec import ModelSpec

_START_TAG = attrgetter("start_tag")


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """An `Infer` message and its progress."""

    infer: Infer
    cancelled: bool = False
    done: bool = False
    parts: int = 1  # number of parts
    answers: dict[int, Arrays] = field(default_factory=dict)  # outputs by part index
    started: float = 0.0  # start of the first run
    compute_s: float = 0.0
    rows_run: int = 0  # total rows of its runs
    runs: int = 0


@dataclass(slots=True, eq=False)
class RequestPart:
    """Rows of one request that stay together in one run."""

    request: QueuedRequest
    index: int
    inputs: Arrays
    rows: int
    lengths: tuple[int, ...]
    size: int  # elements per row
    group: Hashable  # only parts of the same group may share a run
    start_tag: float = 0.0  # of fair queueing among callers: smaller is sooner
    accepted: float = field(init=False)  # copies of the message's fields, for fast planning
    deadline: float | None = field(init=False)
    due: float | None = field(init=False)
    priority: int = field(init=False)

    def __post_init__(self) -> None:
        infer = self.request.infer
        self.accepted, self.priority = infer.accepted, infer.priority
        self.deadline, self.due = infer.deadline, infer.due


def split(request: QueuedRequest, spec: ModelSpec) -> list[RequestPart]:
    """Split a request into parts that each fit into a run; a single part if the model is not batched."""
    inputs, size = request.infer.inputs, request.infer.size
    group = group_of(spec, inputs, size.lengths)
    if not spec.batched or size.rows == 1 or size.rows <= (max_rows := spec.most_rows(size.size)):
        return [whole(request, group)]
    starts = range(0, size.rows, max_rows)
    request.parts = len(starts)
    return [
        RequestPart(
            request,
            index,
            _slice_rows(spec, inputs, start, start + max_rows),
            min(max_rows, size.rows - start),
            size.lengths,
            size.size,
            group,
        )
        for index, start in enumerate(starts)
    ]


def whole(request: QueuedRequest, group: Hashable = None) -> RequestPart:
    """A request as one part. Without a group, it shares no run."""
    rows, lengths, size = request.infer.size
    return RequestPart(request, 0, request.infer.inputs, rows, lengths, size, group)


def _slice_rows(spec: ModelSpec, inputs: Arrays, start: int, end: int) -> Arrays:
    sliced = {}
    for name, array in inputs.items():
        tensor = spec.input(name)
        axis = tensor.spec.batch_axis if tensor else None
        sliced[name] = array if axis is None else array[(slice(None),) * axis + (slice(start, end),)]
    return sliced


def group_of(spec: ModelSpec, inputs: Arrays, lengths: tuple[int, ...]) -> Hashable:
    """The key that requests must share to share a run: the names of the inputs, their sizes on every axis
    that is neither the batch axis nor a named length, the values of inputs without a batch axis, and the
    named lengths if padding changes the answer."""
    if not spec.batched:
        return None
    key: list[Hashable] = [] if spec.padded else [lengths]
    for tensor in spec.inputs:
        array = inputs.get(tensor.name)
        if array is not None:
            section = tensor.spec
            if section.batch_axis is None:
                key.append((tensor.name, padding.value_of(array)))
                continue
            sizes = [
                n
                for axis, n in enumerate(array.shape)
                if axis != section.batch_axis and axis not in section.lengths
            ]
            key.append((tensor.name, *sizes))
    return tuple(key)


def join(spec: ModelSpec, request: QueuedRequest) -> Arrays:
    """Concatenate the outputs of all parts into the answer of the request."""
    answers = [request.answers[index] for index in sorted(request.answers)]
    if len(answers) == 1:
        return answers[0]
    axes = {tensor.name: tensor.spec.batch_axis or 0 for tensor in spec.outputs}
    return {name: np.concatenate([answer[name] for answer in answers], axes[name]) for name in answers[0]}


class WaitingQueue:
    """The queue of a model's parts, fair among callers by elements. Thread-safe."""

    def __init__(self) -> None:
        self._inbox: deque[RequestPart] = deque()
        self._waiting: list[RequestPart] = []
        self._planning = threading.Lock()  # one instance plans at a time
        self._changed = threading.Condition()
        self._sleepers = 0
        self.closed = False
        self._fair_queueing = FairQueueing()

    def __len__(self) -> int:
        return len(self._inbox) + len(self._waiting)

    def put(self, parts: Iterable[RequestPart]) -> None:
        self._inbox.extend(parts)
        self._wake()

    def is_idle(self, threads: int) -> bool:
        """Whether the queue is empty and so many threads wait for it."""
        return self._sleepers == threads and not len(self)

    def _wake(self) -> None:
        """Wake one thread. It takes the parts of one run and wakes the next thread if parts are left."""
        with self._changed:
            if self._sleepers:
                self._changed.notify()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the queue has parts. False if it is closed and empty, or still empty after `timeout`
        seconds."""
        with self._changed:
            self._sleepers += 1
            self._changed.wait_for(lambda: self._inbox or self._waiting or self.closed, timeout)
            self._sleepers -= 1
        return bool(self._inbox or self._waiting)

    def take(self, choose: Callable[[list[RequestPart]], Iterable[RequestPart]]) -> None:
        """Call `choose` with the queued parts and remove those that it returns."""
        with self._planning:
            while self._inbox:
                part = self._inbox.popleft()
                caller, elements = part.request.infer.caller, part.rows * part.size
                part.start_tag = self._fair_queueing.start_tag(caller, elements)
                self._waiting.append(part)
            chosen = set(choose(self._waiting))
            if chosen:
                self._fair_queueing.serve(min(map(_START_TAG, chosen)))
                self._waiting = [part for part in self._waiting if part not in chosen]
            if not self._waiting:
                self._fair_queueing.forget_callers()
        if self._waiting:
            self._wake()

    def deadline(self) -> float:
        """The deadline of the oldest part, for the device scheduler; 1 s after acceptance if it has none."""
        for parts in (self._waiting, self._inbox):
            try:
                first = parts[0]
            except IndexError:  # other threads may change the queue meanwhile
                continue
            return first.accepted + 1.0 if first.deadline is None else first.deadline
        return math.inf

    def claim(self) -> Claim | None:
        """What waits, for the device scheduler, if all of it is of one caller and priority."""
        parts = [*self._waiting, *self._inbox]
        kinds = {(part.request.infer.caller, part.priority) for part in parts}
        return Claim(*kinds.pop(), parts[0].accepted) if len(kinds) == 1 else None

    def close(self) -> None:
        """Make `wait` return False when the queue is empty."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()
