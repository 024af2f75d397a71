"""Why a request took its time: pure functions from the record of a request and of runs to an explanation.

`EndedRequest`, `Run`s → the request's own runs, and those that went on while it waited → `Explanation`
"""

from __future__ import annotations

import statistics
import time
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lockstep_client.operations import EndedRequest, Run

    Span = tuple[float, float]

_SLOWER = 2.0
"""A run that takes so many times longer than the median of its like is mentioned."""

_LIKE = 5
"""The fewest runs that make a median."""

_NOTABLE = 0.01
"""Others' runs that took less than this share of the wait are not mentioned."""


_SAME_S = 1e-3
"""Times that differ by less are the same: they were rounded."""


@dataclass(frozen=True)
class Part:
    """One part of the time of a request."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Explanation:
    """Where the time of a request went."""

    request: EndedRequest
    parts: tuple[Part, ...]
    """In order of time; they add up to the seconds of the request."""
    findings: tuple[str, ...]
    """Sentences, the most important one first."""
    runs: tuple[Run, ...]
    """The runs that it took part in, as far as the server remembers them."""


def explain(request: EndedRequest, runs: Sequence[Run]) -> Explanation:
    """Explain a request by the runs that the server remembers, in order of their numbers."""
    own = tuple(run for run in runs if request.request_id in run.requests)
    others = [run for run in runs if request.request_id not in run.requests]
    parts = _parts(request)
    findings = [_mostly(request, parts)]
    if not own:
        findings.append(_forgotten(request, runs))
    else:
        findings += _waited(request, own, others)
        findings += _shared(request, own) + _unusual(own, runs)
        if len(own) > 1:
            findings += _between(request, own, others)
    return Explanation(request, parts, tuple(filter(None, findings)), own)


def _parts(request: EndedRequest) -> tuple[Part, ...]:
    times, left = request.timings, request.seconds
    wanted = [("admission", request.admission_s), ("queue", times.queue_s - request.admission_s)]
    if not times.steps and not times.prefill_s:  # it never ran: it waited until it ended
        wanted[1] = ("queue", left - request.admission_s)
    if times.prefill_s:
        wanted.append(("prefill", times.prefill_s))
    wanted.append(("runs", times.compute_s - times.prefill_s))
    parts = []
    for name, seconds in wanted:  # clocks of several threads: never more than the whole
        seconds = min(max(seconds, 0.0), left)
        left -= seconds
        parts.append(Part(name, seconds))
    return (*parts, Part("other", left))


_MEANING = {
    "admission": "before the engine had it: tokenization and admission",
    "queue": "waiting for its first run",
    "prefill": "in the run of its prompt",
    "runs": "in runs",
    "other": "between its runs, and on the way to the caller",
}


def _mostly(request: EndedRequest, parts: Sequence[Part]) -> str:
    most = max(parts, key=lambda part: part.seconds)
    share = most.seconds / request.seconds if request.seconds else 0.0
    return f"{share:.0%} of the time went by {_MEANING[most.name]}"


def _forgotten(request: EndedRequest, runs: Sequence[Run]) -> str:
    if not (request.timings.steps or request.timings.prefill_s):
        return f"it took part in no run: {request.outcome}"
    oldest = next((run for run in runs if run.model == request.model), None)
    since = time.strftime("%H:%M:%S", time.localtime(oldest.begun)) if oldest else "now"
    return (
        f"its runs are forgotten: the server remembers those of {request.model} since {since};"
        " raise recorded_runs to remember more"
    )


def _waited(request: EndedRequest, own: Sequence[Run], others: Iterable[Run]) -> list[str]:
    """What went on from the arrival in the engine to the first run."""
    begin, end = request.arrived + request.admission_s, own[0].begun
    if end > request.arrived + request.timings.queue_s + _SAME_S:
        return ["its first runs are forgotten; raise recorded_runs to remember more"]
    if end <= begin:
        return []
    found = []
    behind = _behind([(begin, end)], others)
    if behind:
        found.append(f"for {_ms(end - begin)} before its first run, it waited behind {behind}")
    device_s = min(own[0].device_wait_s, end - begin)
    if device_s > _NOTABLE * (end - begin):
        found.append(f"the device was not free for {_ms(device_s)} of that")
    return found


def _behind(spans: Sequence[Span], others: Iterable[Run]) -> str:
    """The runs that went on during `spans`, by model and kind, the longest first."""
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    count: dict[tuple[str, str], int] = defaultdict(int)
    for run in others:
        if overlap := _overlap(run, spans):
            seconds[run.model, run.kind] += overlap
            count[run.model, run.kind] += 1
    least = _NOTABLE * sum(end - begin for begin, end in spans)
    kept = [key for key in sorted(seconds, key=seconds.__getitem__, reverse=True) if seconds[key] > least]
    return ", ".join(
        f"{count[key]} {_kind(key[1])} run{'s' * (count[key] > 1)} of {key[0]} ({_ms(seconds[key])})"
        for key in kept
    )


def _overlap(run: Run, spans: Sequence[Span]) -> float:
    """How much of `spans`, which are in order and apart, the run takes up."""
    begun, ended, found = run.begun, run.begun + run.seconds, 0.0
    at = bisect_right(spans, begun, key=itemgetter(1))
    while at < len(spans) and spans[at][0] < ended:
        found += min(ended, spans[at][1]) - max(begun, spans[at][0])
        at += 1
    return found


def _shared(request: EndedRequest, own: Sequence[Run]) -> list[str]:
    """What its runs were like."""
    first = own[0]
    if first.kind in ("ONE_SHOT", "PREFILL"):
        others = len(first.requests) - 1
        with_ = f"with {others} other request{'s' * (others > 1)}" if others else "alone"
        size = f"{first.padded_rows} row{'s' * (first.padded_rows > 1)} of {first.length} elements"
        padding = f", {first.padding:.0%} of them padding" if first.padding else ""
        length = f"; its own length is {request.length}" if first.kind == "ONE_SHOT" else ""
        what = "it" if first.kind == "ONE_SHOT" else "its prompt"
        found = [f"{what} ran {with_} in a run of {size}{padding}{length}"]
        found += [f"its rows were split over {len(own)} runs"] * (first.kind == "ONE_SHOT" and len(own) > 1)
    else:
        found = []
    steps = [run for run in own if run.kind in ("STEP", "CLIENT_STEP")]
    if steps:
        rows, worst = statistics.mean(run.rows for run in steps), max(steps, key=lambda run: run.compute_s)
        median = statistics.median(run.compute_s for run in steps)
        found.append(
            f"{len(steps)} of its {max(request.timings.steps, len(steps))} steps are remembered: {rows:.1f}"
            f" rows on average, median {_ms(median)}, slowest {_ms(worst.compute_s)} (run {worst.number})"
        )
    return found


def _unusual(own: Sequence[Run], runs: Iterable[Run]) -> list[str]:
    found = []
    if cold := [run for run in own if run.cold]:
        what = f"run {cold[0].number}" if len(own) > 1 else "its run"
        found.append(f"{what} was cold: the first of its shape since the model was loaded")
    first = own[0]
    like = [
        run.compute_s
        for run in runs
        if (run.model, run.kind) == (first.model, first.kind)
        and (run.padded_rows, run.length) == (first.padded_rows, first.length)
        and run.number != first.number
    ]
    if len(like) >= _LIKE and first.compute_s > _SLOWER * (usual := statistics.median(like)):
        found.append(
            f"run {first.number} took {_ms(first.compute_s)}; others of its shape take {_ms(usual)}"
            f" (median of {len(like)})"
        )
    return found


def _between(request: EndedRequest, own: Sequence[Run], others: Iterable[Run]) -> list[str]:
    """What went on between its runs."""
    gaps = [(one.begun + one.seconds, other.begun) for one, other in pairwise(own)]
    gaps = [(begin, end) for begin, end in gaps if end > begin]
    between_s = sum(end - begin for begin, end in gaps)
    if not gaps or between_s < request.seconds / 10:
        return []
    behind = _behind(gaps, others)
    longest = max(gaps, key=lambda gap: gap[1] - gap[0])
    found = f"{_ms(between_s)} went by between its runs, {_ms(longest[1] - longest[0])} at most at one time"
    return [f"{found}; meanwhile there were {behind}" if behind else found]


def _kind(kind: str) -> str:
    return kind.lower().replace("_", "-")


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
