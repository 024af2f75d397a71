"""The service's objectives, and the rules that watch them: rules/objectives.yml is written from here.

An objective -> its burn rate over seven windows, for each job and model -> two alerts. A burn rate
of 1 spends the error budget of thirty days in thirty days. An alert wants a long and a short window
to burn, so that it comes soon and goes soon (the workbook on site reliability engineering,
"Alerting on SLOs"), and FEWEST failures in the long one, so that a lone failure on a quiet night
calls nobody. Without traffic a burn rate is no number, and no number fires.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

STREAMS = "Generate|Translate|Follow"
"""Methods whose answer takes as long as the caller wants it to."""

SECONDS = {"5m": 300, "30m": 1800, "1h": 3600, "2h": 7200, "6h": 21600, "1d": 86400, "3d": 259200}
"""The windows."""

FEWEST = 5
RUNBOOK = "docs/observability.md"
_MODEL = " by (job, model)"


class Term(NamedTuple):
    """Requests that a counter counted; or, with `above`, those that a histogram saw above a bound."""

    metric: str
    matchers: str = ""
    above: str = ""  # one of the histogram's bounds

    def over(self, function: str, window: str, more: str = "") -> str:
        """Their `rate` or `increase`, of the series that `more` matches too."""
        matchers = ", ".join(one for one in (more, self.matchers) if one)
        if not self.above:
            return f"{function}({self.metric}{{{matchers}}}[{window}])"
        within = ", ".join(one for one in (matchers, f'le="{self.above}"') if one)
        return (
            f"{function}({self.metric}_count{{{matchers}}}[{window}])"
            f" - ignoring (le) {function}({self.metric}_bucket{{{within}}}[{window}])"
        )


@dataclass(frozen=True)
class Objective:
    """A share of requests that go well."""

    name: str
    share: float
    bad: tuple[Term, ...]
    total: tuple[Term, ...]
    says: str  # what an alert says has gone wrong, in a YAML string of single quotes

    @property
    def camel(self) -> str:
        return "".join(word.capitalize() for word in self.name.split("_"))

    @property
    def budget(self) -> float:
        """The share that may go wrong."""
        return 1 - self.share

    def recorded(self, what: str, window: str) -> str:
        """The name of a recorded series: the `bad`, the `total`, or the `burn` rate of both."""
        return f"job_model:lockstep_{self.name}_{what}:rate{window}"


_REFUSED = Term("lockstep_refused_total", 'meaning=~"failed|unavailable"')
_OVERLOADED = Term("lockstep_refused_total", 'meaning="overloaded"')

AVAILABILITY = Objective(
    "availability",
    0.999,
    (
        Term("lockstep_requests_total", 'outcome=~"failed|unavailable"'),
        # A one-shot request is accepted where its deadline can be met. A stream's may just end it.
        Term("lockstep_requests_total", f'outcome="deadline", method!~"{STREAMS}"'),
        _REFUSED,
    ),
    (Term("lockstep_requests_total", 'outcome!~"cancelled|bad_input|sequence_lost|overloaded"'), _REFUSED),
    "requests fail by the server''s fault",
)

ADMISSION = Objective(
    "admission",
    0.99,
    (_OVERLOADED, Term("lockstep_requests_total", 'outcome="overloaded"')),
    (_OVERLOADED, Term("lockstep_accepted_total")),
    "requests are refused for overload",
)

LATENCY = Objective(
    "latency",
    0.99,
    (Term("lockstep_request_seconds", f'method!~"{STREAMS}"', above="0.25"),),
    (Term("lockstep_request_seconds_count", f'method!~"{STREAMS}"'),),
    "one-shot requests take longer than 250 ms",
)

FIRST_TOKEN = Objective(
    "first_token",
    0.99,
    (Term("lockstep_first_token_seconds", above="0.25"),),
    (Term("lockstep_first_token_seconds_count"),),
    "streams wait longer than 250 ms for their first token",
)

OBJECTIVES = (AVAILABILITY, ADMISSION, LATENCY, FIRST_TOKEN)


@dataclass(frozen=True)
class Speed:
    """How fast a budget must burn, over which windows, for whom to be told."""

    name: str
    severity: str
    pairs: tuple[tuple[float, str, str], ...]  # burn rate, long window, short window
    spends: str


SPEEDS = (
    Speed("Fast", "page", ((14.4, "1h", "5m"), (6, "6h", "30m")), "within two to five days"),
    Speed("Slow", "ticket", ((3, "1d", "2h"), (1, "3d", "6h")), "within ten to thirty days"),
)


def rules() -> str:
    """The file, as text."""
    return "\n".join(
        [
            "# Written by `make dashboards` from deploy/prometheus/objectives.py, which says what it means.",
            "groups:",
            *(line for objective in OBJECTIVES for line in _group(objective)),
            "",
        ]
    )


def _group(objective: Objective) -> Iterator[str]:
    yield f"  - name: lockstep-{objective.name.replace('_', '-')}"
    yield "    rules:"
    for window in SECONDS:
        yield from _records(objective, window)
    for speed in SPEEDS:
        yield from _alert(objective, speed)


def _records(objective: Objective, window: str) -> Iterator[str]:
    bad, total, burn = (objective.recorded(what, window) for what in ("bad", "total", "burn"))
    yield f"      - record: {total}"
    yield f"        expr: {requests(objective.total, 'rate', window, by=_MODEL)}"
    # Nothing has gone wrong yet: there is no counter of it then, and 0 stands in.
    yield f"      - record: {bad}"
    yield f"        expr: {requests(objective.bad, 'rate', window, by=_MODEL)} or 0 * {total}"
    yield f"      - record: {burn}"
    yield f"        expr: {bad} / {total} / {objective.budget:.4g}"


def _alert(objective: Objective, speed: Speed) -> Iterator[str]:
    name = f"Lockstep{objective.camel}Burns{speed.name}"
    yield f"      - alert: {name}"
    yield "        expr: |-"
    for index, (factor, long, short) in enumerate(speed.pairs):
        yield "          (" if index == 0 else "          or ("
        yield f"            {objective.recorded('burn', long)} > {factor:g}"
        yield f"            and {objective.recorded('burn', short)} > {factor:g}"
        yield f"            and {objective.recorded('bad', long)} * {SECONDS[long]} >= {FEWEST}"
        yield "          )"
    yield "        labels:"
    yield f"          severity: {speed.severity}"
    yield "        annotations:"
    yield f"          summary: '{{{{ or $labels.model \"a model that is not there\" }}}}: {objective.says}'"
    yield "          description: >-"
    yield f"            {objective.budget:.2g} of them may be so. This burns"
    yield '            {{ $value | printf "%.1f" }} times as fast: at this pace the budget of thirty days'
    yield f"            is spent {speed.spends}."
    yield f"          runbook: {RUNBOOK}#{name.lower()}"


def requests(terms: tuple[Term, ...], function: str, window: str, more: str = "", by: str = "") -> str:
    """All that the terms count, over a window. `or` joins them: their labels differ."""
    joined = " or ".join(one.over(function, window, more) for one in terms)
    return f"sum{by} ({joined})"
