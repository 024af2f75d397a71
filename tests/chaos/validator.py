"""What a recorded history shows to be wrong. Pure: history in, findings out.

Every request ends exactly once, with a status that its caller or a fault explains; what it was answered is
what it is answered alone; counters agree with the callers; slots, queues, descriptors, threads and memory are
back where they were.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_right
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from .history import End, Reply, Sent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .history import Answer, Fault, History

TOLERANCE = 1e-4
"""Batching changes numbers by rounding; the largest difference that counts as that."""

_MOST_GROWTH = 64.0
"""Bytes per request that a process may seem to grow: what an allocator keeps is never quite flat."""

_FEWEST_ROUNDS = 5

_AFTERMATH_S = 0.5
"""A caller may learn of a fault this long after it has ended."""


class Finding(NamedTuple):
    """Something wrong. `kind` is one of a few words, `what` says it in full."""

    kind: str
    what: str


def findings(history: History) -> list[Finding]:
    """All that is wrong in a history."""
    return [
        *_requests(history),
        *(Finding("no recovery", f"{one.name} at {one.begun:.1f} s") for one in history.faults
          if math.isinf(one.ended)),
        *_counters(history),
        *(Finding("leak", f"{one.name}: {one.before:g} before, {one.after:g} after")
          for one in history.levels if one.after > one.before + one.slack),
    ]  # fmt: skip


def growth(points: Sequence[tuple[float, float]]) -> float:
    """Bytes of memory that a process gains per request in the second half of a run.

    The first half fills caches. A process that keeps something of each failed request stays far below the
    bound of a single round, but not of this.

    Args:
        points: requests so far and MB of the process, after each round.
    """
    later = points[len(points) // 2 :]
    if len(later) < _FEWEST_ROUNDS:
        return 0.0
    slope = statistics.linear_regression([at for at, _ in later], [megabytes for _, megabytes in later]).slope
    return slope * (1 << 20)


def grows(points: Sequence[tuple[float, float]]) -> list[Finding]:
    """A leak of the server process, if it grows with its requests."""
    found = growth(points)
    return (
        [Finding("leak", f"the server gains {found:.0f} bytes per request")] if found > _MOST_GROWTH else []
    )


# --- requests ---------------------------------------------------------------------------------------


class _Request:
    """All events of one request."""

    __slots__ = ("answer", "ends", "late", "sent")

    def __init__(self, sent: Sent) -> None:
        self.sent = sent
        self.answer: list[Any] = []
        self.ends: list[End] = []
        self.late = 0  # replies after the end

    def __str__(self) -> str:
        how = f" ({self.sent.how})" if self.sent.how else ""
        return f"{self.sent.rpc} {self.sent.key}{how}"


def _requests(history: History) -> Iterator[Finding]:
    requests: dict[int, _Request] = {}
    for event in history.events:
        if isinstance(event, Sent):
            requests[event.key] = _Request(event)
        elif (request := requests.get(event.key)) is None:
            yield Finding("unasked", f"{event}")
        elif isinstance(event, Reply):
            request.answer.extend(event.parts)
            request.late += bool(request.ends)
        else:
            request.ends.append(event)
    asked = _askers(requests)
    windows = _Windows(history.faults)
    for one in requests.values():
        if not one.ends:
            yield Finding("lost", f"{one} never ended")
            continue
        if len(one.ends) > 1:
            yield Finding("double end", f"{one} ended with {', '.join(end.status for end in one.ends)}")
        if one.late:
            yield Finding("after the end", f"{one} got {one.late} replies after its end")
        yield from _check_answer(one, asked)
        yield from _check_status(one, windows)


def _askers(requests: Mapping[int, _Request]) -> dict[Answer, int]:
    """Which request expects an answer, if only one does."""
    counts = Counter(one.sent.expected for one in requests.values() if one.sent.expected)
    return {
        one.sent.expected: one.sent.key
        for one in requests.values()
        if one.sent.expected and counts[one.sent.expected] == 1
    }


def _check_answer(one: _Request, asked: Mapping[Answer, int]) -> Iterator[Finding]:
    answer, expected = tuple(one.answer), one.sent.expected
    if expected is None:
        if answer:
            yield Finding("wrong answer", f"{one} was answered, although it is invalid: {_short(answer)}")
        return
    right = equal(answer, expected) if one.ends[0].status == "OK" else begins(expected, answer)
    if right:
        return
    if (other := asked.get(answer)) is not None and other != one.sent.key:
        yield Finding("crossed", f"{one} got the answer of request {other}: {_short(answer)}")
    else:
        yield Finding("wrong answer", f"{one} got {_short(answer)} and not {_short(expected)}")


def _check_status(one: _Request, windows: _Windows) -> Iterator[Finding]:
    sent, end = one.sent, one.ends[0]
    if end.status == "OK":
        if sent.expected is None:
            yield Finding("status", f"{one} ended with OK, although it is invalid")
    elif end.status not in sent.may and not windows.explain(sent, end):
        yield Finding("status", f"{one} ended with {end.status} ({end.details}), which nothing explains")


class _Windows:
    """The faults in the order of their begin."""

    def __init__(self, faults: list[Fault]) -> None:
        self._faults = sorted(faults)
        self._begins = [one.begun for one in self._faults]

    def explain(self, sent: Sent, end: End) -> bool:
        before_end = self._faults[: bisect_right(self._begins, end.at)]
        return any(
            one.ended + _AFTERMATH_S >= sent.at
            and end.status in one.explains
            and one.model in ("", sent.model)
            for one in reversed(before_end)
        )


def equal(one: Any, other: Any) -> bool:
    """Whether two answers are equal but for rounding."""
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(one == other)


def begins(whole: Answer, part: Answer) -> bool:
    """Whether an answer that was cut off is the beginning of a whole one."""
    return equal(whole[: len(part)], part)


def _short(answer: Answer) -> str:
    text = repr(answer)
    return text if len(text) <= 120 else f"{text[:120]}…"


# --- counters ---------------------------------------------------------------------------------------


def _counters(history: History) -> Iterator[Finding]:
    if history.counted is None:
        return
    added = _Added(*history.counted)
    accepted, ended = added.total("lockstep_accepted_total"), added.total("lockstep_requests_total")
    if accepted != ended:
        yield Finding("counter", f"{accepted:g} requests were accepted, and {ended:g} have ended")
    started, handled = added.total("grpc_server_started_total"), added.total("grpc_server_handled_total")
    if started != handled:
        yield Finding("counter", f"{started:g} RPCs were started, and {handled:g} have ended")
    for rpc, (least, most) in _bounds(history, calls=True).items():
        found = added.total("grpc_server_handled_total", grpc_method=rpc, grpc_code="OK")
        if not least <= found <= most:
            yield Finding("counter", f"{found:g} {rpc} calls ended OK; the callers say {least} to {most}")
    for rpc, (least, most) in _bounds(history, calls=False).items():
        found = added.total("lockstep_requests_total", method=rpc, outcome="ok")
        if not least <= found <= most:
            yield Finding("counter", f"{found:g} {rpc} requests ended ok; the callers say {least} to {most}")


def _bounds(history: History, *, calls: bool) -> dict[str, tuple[int, int]]:
    """How many OK ends the server may have counted of each RPC. What failed for its caller may have been OK.

    Args:
        calls: of RPCs, and not of inference requests.
    """
    ok = {event.key for event in history.events if isinstance(event, End) and event.status == "OK"}
    bounds: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for event in history.events:
        if not isinstance(event, Sent) or not (event.is_call if calls else event.weight):
            continue
        weight = 1 if calls else event.weight
        bounds[event.rpc][0] += weight if event.key in ok else 0
        bounds[event.rpc][1] += weight
    return {rpc: (least, most) for rpc, (least, most) in bounds.items()}


class _Added:
    """What counters have gained between two scrapes."""

    def __init__(self, before: Mapping[Any, float], after: Mapping[Any, float]) -> None:
        self._before, self._after = before, after

    def total(self, name: str, **labels: str) -> float:
        wanted = labels.items()
        return sum(
            value - self._before.get((one, pairs), 0.0)
            for (one, pairs), value in self._after.items()
            if one == name and wanted <= dict(pairs).items()
        )
